"""The figures of the page as files, by matplotlib: what page.js does by plotly."""

import html
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import figure as of_matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ddpm_lab.compare.figures import FEW, Entry, Figure, file_name
from ddpm_lab.compare.palette import DASHES, LIGHT, NEUTRAL, SYMBOLS
from ddpm_lab.compare.printed import shortened
from ddpm_lab.files import SUMS, is_as_written, replacing, write_sums

WIDTHS = {False: 5.0, True: 8.0}
"""Inches, of figures as wide as half the page and the page."""
LONGEST = 40
"""Characters of a name: more would leave no room for the axes."""
LETTERS = 14
"""Of a title, an inch."""


def write_figures(figures: Sequence[Figure], kind: str, folder: Path) -> list[Path]:
    """Writes each figure as `kind`, pdf, svg or png, named by its place and title in ASCII, in place of those of an earlier
    comparison, which are the files that SHA256SUMS names and that are as they were written. Raises OSError."""
    ours = [path for path in folder.glob("*.*") if (folder / SUMS).exists() and path.name != SUMS and is_as_written(path)]
    for earlier in ours:
        if earlier.suffix == f".{kind}":
            earlier.unlink()
    written = []
    for i, shown in enumerate(figures, 1):
        path = folder / f"{file_name(i, shown)}.{kind}"
        stamp = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        with matplotlib.rc_context({"svg.hashsalt": "ddpm_lab", "axes.formatter.min_exponent": 4}), replacing(path) as partial:
            drawn(shown).savefig(partial, format=kind, dpi=200, metadata=stamp)
        written.append(path)
    write_sums(folder, [path.name for path in (*ours, *written)])
    return written


def drawn(shown: Figure) -> of_matplotlib.Figure:
    """One figure of the page, with its title and, where the page has one, its legend."""
    names = shortened([html.unescape(entry["name"]) for entry in shown.data], LONGEST)
    named = [entry | {"name": html.escape(name, quote=False)} for entry, name in zip(shown.data, names, strict=True)]
    shown = replace(shown, data=named)
    made = of_matplotlib.Figure(figsize=(WIDTHS[shown.wide], shown.height / 100), layout="constrained")
    axes = made.add_subplot()
    KINDS[shown.kind](axes, shown)
    for which, settings in (("x", shown.x), ("y", shown.y)):
        getattr(axes, f"set_{which}label")(_text(settings["title"]), fontsize=9)
        if settings.get("type") == "log":
            axes.set(**{f"{which}scale": "log"})
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e9ed")
    axes.set_axisbelow(True)
    title = textwrap.fill(shown.title, int(LETTERS * WIDTHS[shown.wide]), max_lines=3, placeholder=" …")
    made.suptitle(_text(title), fontsize=9)
    if shown.legend:
        made.legend(loc="outside lower center", ncols=3 if len(shown.data) > FEW else 2, frameon=False, fontsize=8)
    return made


def _rows(axes: Axes, shown: Figure) -> None:
    """A row for each choice: its mean with the interval, and a tick for each seed."""
    for row, entry in enumerate(shown.data):
        seeds = entry.get("seeds", {}).get("values", [])
        axes.plot(seeds, [row] * len(seeds), "|", color=_colour(entry), markersize=9)
        face = "white" if entry.get("hollow") else _colour(entry)
        axes.errorbar(entry["mean"]["value"], row, xerr=_error(entry["mean"]), **_point(entry, "o"), markerfacecolor=face)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(len(shown.data)), [_text(entry["name"]) for entry in shown.data])
    axes.set_ylim(len(shown.data) - 0.4, -0.6)
    if shown.mark:
        axes.axvline(shown.mark[0], color=NEUTRAL[0], linestyle="--", label=_text(shown.mark[1]))
    if shown.x.get("rangemode") == "tozero":
        axes.set_xlim(left=0)
    if shown.x.get("zeroline"):
        axes.axvline(0, color="#333", linewidth=1)


def _lines(axes: Axes, shown: Figure) -> None:
    """A line for each choice, and a band from the lowest to the highest seed."""
    for entry in shown.data:
        style = {"color": _colour(entry), "linestyle": DASHES[entry["dash"]], "linewidth": 1.5}
        x, y = entry["x"], [float("nan") if value is None else value for value in entry["y"]]
        axes.plot(x, y, label=_text(entry["name"]), marker="." if len(x) <= 12 else None, **style)
        if "low" in entry:
            low, high = ([float("nan") if value is None else value for value in entry[end]] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=_colour(entry), alpha=0.16, linewidth=0)


def _plane(axes: Axes, shown: Figure) -> None:
    """A point for each choice, with the steps of those that no other beats."""
    if shown.front:
        axes.step(*zip(*shown.front, strict=True), where="post", color=NEUTRAL[0], linestyle=":", label="Pareto front")
    for entry in shown.data:
        x, y = entry["x"], entry["y"]
        errors = {"xerr": _error(x), "yerr": _error(y)}
        axes.errorbar(x["value"], y["value"], **errors, **_point(entry, SYMBOLS[entry["symbol"]]), label=_text(entry["name"]))


KINDS: dict[str, Callable[[Axes, Figure], None]] = {"rows": _rows, "lines": _lines, "plane": _plane}


def _colour(entry: Entry) -> str:
    return NEUTRAL[0] if entry.get("hollow") else LIGHT[entry["colour"]]


def _point(entry: Entry, symbol: str) -> dict[str, Any]:
    return {"fmt": symbol, "color": _colour(entry), "markersize": 6, "capsize": 3}


def _error(estimate: dict[str, Any]) -> list[list[float]] | None:
    """The ends of an interval as distances from the value; None without one."""
    if estimate["low"] is None:
        return None
    return [[max(0.0, estimate["value"] - estimate["low"])], [max(0.0, estimate["high"] - estimate["value"])]]


def _text(label: str) -> str:
    """Of what plotly reads: without HTML, and with no sign that matplotlib takes for mathematics."""
    return html.unescape(label).replace("$", r"\$")
