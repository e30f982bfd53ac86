"""Numbers as text: how many decimals, and the form of a value and of an interval."""

import math
from collections.abc import Iterable, Sequence

from ddpm_lab.compare.statistics import Interval

MINUS = "−"
NONE = "–"


def decimals(values: Iterable[float], spreads: Iterable[float] = ()) -> int:
    """Enough for two digits of the median half-width or, without any, four digits of the largest value; at most 5."""
    known = sorted(spread for spread in spreads if 0 < spread < math.inf)
    size = known[len(known) // 2] if known else max((abs(value) for value in values), default=1.0)
    if size == 0:
        return 3
    return max(0, min(5, (1 if known else 3) - math.floor(math.log10(size))))


def decimals_of_differences(values: Sequence[float], spreads: Sequence[float]) -> int:
    """As many as the half-widths ask for and at least two digits of the largest; without any half-width three digits."""
    few = decimals(values) - (2 if spreads else 1)
    return max(0, few, decimals(values, spreads) if spreads else 0)


def half_widths(estimates: Iterable[Interval | None]) -> list[float]:
    """Half-widths of the intervals that there are."""
    return [(e.high - e.low) / 2 for e in estimates if e is not None and e.low is not None and e.high is not None]


def decimal(value: float, digits: int, sign: bool = False) -> str:
    """With a true minus sign, and none before zero."""
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    elif sign and value > 0:
        text = f"+{text}"
    return text.replace("-", MINUS)


def interval(estimate: Interval, digits: int, sign: bool = False) -> str:
    """[low, high], or a dash."""
    if estimate.low is None or estimate.high is None:
        return NONE
    return f"[{decimal(estimate.low, digits, sign)}, {decimal(estimate.high, digits, sign)}]"


def with_interval(value: float, estimate: Interval | None, digits: int, sign: bool = False) -> str:
    """The value, and the interval of the estimate where there is one."""
    text = decimal(value, digits, sign)
    return text if estimate is None or estimate.low is None else f"{text} {interval(estimate, digits, sign)}"
