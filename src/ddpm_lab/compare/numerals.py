"""Numbers as text: how many decimals, and the form of a value and of an interval."""

import math
from collections.abc import Iterable

MINUS = "−"
NONE = "–"


def decimals(values: Iterable[float], spreads: Iterable[float]) -> int:
    """Enough for two digits of the median half-width or, without any, four digits of the largest value; at most 5."""
    known = sorted(spread for spread in spreads if 0 < spread < math.inf)
    size = known[len(known) // 2] if known else max((abs(value) for value in values), default=1.0)
    if size == 0:
        return 3
    return max(0, min(5, (1 if known else 3) - math.floor(math.log10(size))))


def decimal(value: float | None, digits: int, sign: bool = False) -> str:
    """With a true minus sign, and none before zero; a dash for None."""
    if value is None:
        return NONE
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    elif sign and value > 0:
        text = f"+{text}"
    return text.replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int, sign: bool = False) -> str:
    """[low, high], or a dash."""
    return NONE if low is None or high is None else f"[{decimal(low, digits, sign)}, {decimal(high, digits, sign)}]"
