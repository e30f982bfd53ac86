"""Times of several ways to do one thing, taken in turns within one run, so that what else the machine does hits all alike."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """One way: its best and median time, and how many times faster than the first way (by best times, and by the median of
    the ratios within a round)."""

    name: str
    best_s: float
    median_s: float
    by_best: float
    by_rounds: float


def compare(ways: dict[str, Callable[[], object]], rounds: int, calls: int = 1, warm_up: int = 1) -> list[Row]:
    """Each way `rounds` times in turns, `calls` calls each time; the first is the reference."""
    for way in ways.values():
        for _ in range(warm_up):
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(calls):
                way()
            seconds[name].append((time.perf_counter() - start) / calls)
    reference = next(iter(seconds.values()))
    return [
        Row(
            name,
            min(times),
            statistics.median(times),
            min(reference) / min(times),
            statistics.median(r / o for r, o in zip(reference, times, strict=True)),
        )
        for name, times in seconds.items()
    ]


def show(title: str, rows: list[Row], unit: str, scale: float) -> None:
    """As a Markdown table; `scale` turns seconds into `unit`."""
    print(f"\n### {title}\n\n| | best, {unit} | median, {unit} | × by best | × by rounds |\n|---|---|---|---|---|", flush=True)
    for row in rows:
        numbers = f"{row.best_s * scale:,.4g} | {row.median_s * scale:,.4g} | {row.by_best:.2f} | {row.by_rounds:.2f}"
        print(f"| {row.name} | {numbers} |", flush=True)
