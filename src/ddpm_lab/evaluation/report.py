"""What an evaluation leaves behind: lines to read, evaluation.json, .csv, and the table over choices."""

import csv
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.core.analytic import Gamma
from ddpm_lab.evaluation.evaluate import Evaluated
from ddpm_lab.likelihood.bound import Bound
from ddpm_lab.metrics.record import PACKAGES, Record, Result, incomparable


def lines(results: Sequence[Result], brief: bool = False) -> list[str]:
    """One row per number; `brief` leaves out what others are made of."""
    results = [result for result in results if not (brief and result.label.startswith(" "))]
    wide, right = (max((len(text) for text in column), default=0) for column in
                   ([result.label for result in results], [f"{result.value:.4f}" for result in results]))  # fmt: skip
    return [f"{r.label.ljust(wide)}  {' ' * (right - len(f'{r.value:.4f}'))}{shown(r.value, r.se)}" for r in results]


def shown(value: float, se: float | None) -> str:
    number = f"{value:.4f}"
    return number if se is None else f"{number} ± {se:.4f}"


def plain(found: Evaluated, number: int) -> dict[str, Any]:
    """As evaluation.json has it; `number` is its place there."""
    choice = found.choice
    return {
        "sampler": choice.sampler_name, "steps": found.steps, "variance": choice.variance_name, "setting": found.setting,
        "results": [
            {"key": result.key, "label": result.label.strip(), "value": result.value, "standard_error": result.se,
             "record": result.record}
            for result in found.results
        ],
        "picture": found.grid.name if found.grid else None,
        "per_datum": {key: _of_data(number, key) for key in found.per_datum},
    }  # fmt: skip


def _of_data(number: int, key: str) -> str:
    return f"per_datum_{number}_{key}.npz"


def write_per_datum(arm: Evaluated, number: int, folder: Path) -> None:
    """A file for each bound, under the names that vlb_terms.npz has, with what tells whether another is over the same data
    (their hash, split, indices and stride) by the same draws (the seed, and an estimate's terms)."""
    records = {result.key: result.record for result in arm.results}
    for key, found in arm.per_datum.items():
        about = {name: records[key][name] for name in ("data_sha256", "seed", "terms") if name in records[key]}
        np.savez(folder / _of_data(number, key), split=records[key]["data"], **found._asdict(), **about)


def write_json(arms: Sequence[Evaluated], about: dict[str, Any], path: Path) -> None:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    content = about | {"versions": versions, "arms": [plain(arm, i) for i, arm in enumerate(arms)]}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_csv(arms: Sequence[Evaluated], path: Path) -> None:
    """One row per number, with every field of its record as a column."""
    rows = [
        {"key": result.key, "value": result.value, "standard_error": result.se, **result.record}
        for arm in arms
        for result in arm.results
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def score_of(arm: Evaluated, what: str) -> Result | None:
    """The number of the table: "bound" is that of the sampler's own chain, "fd" the Fréchet distance of all samples."""
    if what == "bound":
        named = {f"bound_{arm.steps}", f"bound_{arm.steps}_estimate"}
        own = [result for result in arm.results if result.key in named]
        whole = [result for result in arm.results if result.key in ("bound", "bound_estimate")]
        return next(iter(own or [result for result in whole if result.record["steps"] == arm.steps]), None)
    return next((result for result in arm.results if "reference" in result.record), None)


def comparable(arms: Sequence[Evaluated], what: str) -> list[list[Evaluated]]:
    """Those that have the number, in groups whose records allow to hold it against each other."""
    groups: list[tuple[Record, list[Evaluated]]] = []
    for arm in arms:
        result = score_of(arm, what)
        if result is None:
            continue
        own = next((group for record, group in groups if not incomparable(record, result.record)), None)
        if own is None:
            groups.append((result.record, own := []))
        own.append(arm)
    return [group for _, group in groups]


def apart(group: Sequence[Evaluated], first: Sequence[Evaluated], what: str) -> str:
    """Why a group has a table of its own."""
    one, other = score_of(first[0], what), score_of(group[0], what)
    assert one is not None
    assert other is not None
    return "not comparable with the first of these tables: " + "; ".join(map(str, incomparable(one.record, other.record)))


def sweep_table(arms: Sequence[Evaluated], what: str) -> list[list[str]]:
    """Variance (and, where samples are looked at, sampler) down, steps across: the head, then the rows. What else tells
    choices apart has a column, where there is any."""
    steps, apart = sorted({arm.steps for arm in arms}), any(arm.setting for arm in arms)
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    for arm in sorted(arms, key=lambda arm: arm.choice.sampler_name):
        result = score_of(arm, what)
        if result is not None:
            sampled = (arm.choice.sampler_name, arm.choice.variance_of_samples)
            name = (arm.choice.variance_name,) if what == "bound" else sampled
            cells = rows.setdefault((*name, arm.setting) if apart else name, {})
            cells[arm.steps] = shown(result.value, result.se) if what == "bound" else f"{result.value:.4f}"
    names = [*(["variance"] if what == "bound" else ["sampler", "variance"]), *(["setting"] if apart else [])]
    return [[*names, *map(str, steps)], *([*name, *(row.get(n, "") for n in steps)] for name, row in rows.items())]


def markdown(table: Sequence[Sequence[str]]) -> list[str]:
    """Aligned, so that it reads as text too."""
    width = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |" for row in table]
    return [rows[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *rows[1:]]


def write_terms(bound: Bound, path: Path) -> None:
    """Every term of the bound, what it is made of, and rate and distortion at its time."""
    rate = bound.rate_distortion().rate_bpd.flip(0)
    columns = {
        "t": torch.tensor(bound.times), "bits_per_dim": bound.terms_bpd, "standard_error": bound.terms_se, "n": bound.terms_n,
        "by_means": bound.mean_bpd, "by_variances": bound.variance_bpd, "rate_bits_per_dim": rate, "rmse_of_255": bound.rmse,
    }  # fmt: skip
    _write_columns(columns, path)


def write_gamma(gamma: Gamma, path: Path) -> None:
    """Γ at every time it was measured, and the variance of x_0 that follows, not clipped."""
    columns = {
        "t": torch.tensor(gamma.times), "gamma": gamma.mean, "standard_error": gamma.se, "cov": gamma.cov,
        "cov_standard_error": gamma.cov_se,
    }  # fmt: skip
    _write_columns(columns, path)


def _write_columns(columns: dict[str, Tensor], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def tell(logger: Any, arms: Sequence[Evaluated], folder: Path, trained: dict[str, Any]) -> None:
    """Tables, pictures, files and the configuration of the run to the logger that was chosen, where it takes them.
    (metrics.csv is training's alone.)"""
    for one in logger if isinstance(logger, list) else [logger]:
        if not hasattr(one, "log_table"):
            continue
        one.log_hyperparams(trained)
        named = [([a.choice.sampler_name, a.steps, a.choice.variance_name, a.setting], r) for a in arms for r in a.results]
        rows = [[*name, r.key, r.value, r.se] for name, r in named]
        columns = ["sampler", "steps", "variance", "setting", "key", "value", "standard error"]
        one.log_table(f"eval/{folder.name}", columns, rows, step=None)
        if hasattr(one, "log_picture"):
            for path in sorted(folder.glob("*.png")):
                one.log_picture(f"eval/{folder.name}/{path.stem}", path, step=None)
        if hasattr(one, "log_files"):
            names = ("samples_*.png", "per_datum_*.npz", "bound_*.csv")
            files = [
                folder.parent.parent / "config.yaml",
                folder / "evaluation.json",
                *(p for n in names for p in folder.glob(n)),
            ]
            one.log_files(sorted(file for file in files if file.exists()), step=None)
        one.close(0)
