"""The files of an evaluation, and what loggers are told of it."""

import csv
import importlib.metadata
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.evaluation.evaluate import Evaluated
from ddpm_lab.files import write_json
from ddpm_lab.likelihood.bound import Bound
from ddpm_lab.metrics.record import PACKAGES


def plain(arm: Evaluated, number: int) -> dict[str, Any]:
    """An entry of evaluation.json; `number` is its place there. A part that the model does not have is null."""
    return {
        "sampler": arm.choice.names.get("sampler"),
        "steps": arm.steps,
        "variance": arm.choice.names.get("variance"),
        **({"guidance": arm.choice.names["guidance"]} if "guidance" in arm.choice.names else {}),
        **({"weights": arm.choice.names["weights"]} if "weights" in arm.choice.names else {}),
        "setting": arm.setting,
        "results": [
            {
                "key": r.key,
                "label": r.label,
                "level": r.level,
                "value": r.known,
                "standard_error": r.known_se,
                "record": r.record,
                **({"sets": [value if math.isfinite(value) else None for value in r.sets]} if r.sets else {}),
            }
            for r in arm.results
        ],
        "picture": arm.grid.name if arm.grid else None,
        "per_datum": {key: f"per_datum_{number}_{key}.npz" for key in arm.per_datum},
    }


def write_per_datum(arm: Evaluated, number: int, folder: Path) -> None:
    """A file for each bound with the names of vlb_terms.npz, and the fields that decide whether another is paired with it: the
    data's hash, split, indices and stride, the seed, and the terms of an estimate."""
    records = {result.key: result.record for result in arm.results}
    for key, values in arm.per_datum.items():
        record: dict[str, Any] = records[key]
        fields = {name: record[name] for name in ("data_sha256", "seed", "terms") if record.get(name) is not None}
        np.savez(folder / f"per_datum_{number}_{key}.npz", split=record["split"], **values._asdict(), **fields)


def write_numbers(arms: Sequence[Evaluated], origin: Mapping[str, Any], folder: Path) -> None:
    """evaluation.json; and evaluation.csv, one row per number with every field of its record as a column."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    content = {**origin, "versions": versions, "arms": [plain(arm, i) for i, arm in enumerate(arms)]}
    write_json(folder / "evaluation.json", content)
    rows = [
        {"key": result.key, "value": result.known, "standard_error": result.known_se, **result.record}
        for arm in arms
        for result in arm.results
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(folder / "evaluation.csv", columns, ([row.get(name) for name in columns] for row in rows))


def term_columns(bound: Bound) -> dict[str, Tensor]:
    """Every term of the bound, its parts, and rate and distortion at its time."""
    return {
        "t": torch.tensor(bound.times),
        "bits_per_dim": bound.terms_bpd,
        "standard_error": bound.terms_se,
        "n": bound.terms_n,
        "by_means": bound.mean_bpd,
        "by_variances": bound.variance_bpd,
        "rate_bits_per_dim": bound.rate_distortion().rate_bpd.flip(0),
        "rmse_of_255": bound.rmse,
    }


def write_columns(columns: Mapping[str, Tensor], path: Path) -> Path:
    write_csv(path, columns, zip(*(column.tolist() for column in columns.values()), strict=True))
    return path


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    """None is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


COMPARED = ("samples_*.png", "per_datum_*.npz", "bound_*.csv")
"""Files that loggers keep besides evaluation.json."""


def log(logger: Any, arms: Sequence[Evaluated], folder: Path, trained: dict[str, Any]) -> None:
    """Tables, pictures, files and the run's configuration to each logger that takes them."""
    columns = ["sampler", "steps", "variance", "setting", "key", "value", "standard error"]
    rows = [
        [arm.choice.names.get("sampler"), arm.steps, arm.choice.names.get("variance"), arm.beside, r.key, r.known, r.known_se]
        for arm in arms
        for r in arm.results
    ]
    for one in logger if isinstance(logger, list) else [logger]:
        if not hasattr(one, "log_table"):  # metrics.csv is that of training
            continue
        one.log_hyperparams(trained)
        one.log_table(f"eval/{folder.name}", columns, rows, step=None)
        if hasattr(one, "log_picture"):
            for path in sorted(folder.glob("*.png")):
                one.log_picture(f"eval/{folder.name}/{path.stem}", path, step=None)
        if hasattr(one, "log_files"):
            files = [path for pattern in COMPARED for path in folder.glob(pattern)]
            files += [folder.parent.parent / "config.yaml", folder / "evaluation.json"]
            one.log_files(sorted(file for file in files if file.exists()), step=None)
        one.close(0)
