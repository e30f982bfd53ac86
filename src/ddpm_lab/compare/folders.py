"""Run folders as they lie on the disk: what can be read of them, and why the rest is left out."""

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import Plain, Record

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times faster
OWN = "table.csv"
"""What a folder of ours holds beside index.html, so that it is not taken for a run."""


@dataclass
class Arrays:
    """An .npz, read when it is asked for."""

    path: Path
    problems: list[str]

    @cached_property
    def content(self) -> dict[str, np.ndarray]:
        return self.read()

    def read(self) -> dict[str, np.ndarray]:
        """Kept by none; nothing where there is no such file, or it cannot be read."""
        try:
            with (
                self.path.open("rb") as opened,
                np.load(opened) as file,
            ):  # opened here, as numpy leaves one open that it cannot read
                return dict(file)
        except FileNotFoundError:
            return {}
        except Exception as error:  # zipfile, zlib, struct and numpy each have their own for a file that was cut short
            told = f"{self.path}: not readable ({type(error).__name__}), so left out"
            self.problems += [told] * (told not in self.problems)
            return {}


LARGEST = 1e100


class Number(NamedTuple):
    """A measured value with what was said beside it."""

    value: float
    se: float | None
    record: Record
    per_datum: Arrays | None = None
    """What each datum cost, of a bound that says so."""


class Skipped(NamedTuple):
    path: Path
    why: str


@dataclass
class EvaluatedArm:
    """One choice of sampler and variance that a trained run was measured under."""

    choice: dict[str, Plain]
    numbers: dict[str, Number]
    folder: Path
    picture: Path | None


@dataclass
class RunFolder:
    """A run that has ended or was evaluated."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    numbers: dict[str, Number]
    evaluated: list[EvaluatedArm] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @cached_property
    def vlb_terms(self) -> Arrays:
        return Arrays(self.path / "vlb_terms.npz", self.problems)

    @property
    def terms(self) -> dict[str, np.ndarray]:
        return self.vlb_terms.content

    @cached_property
    def curves(self) -> dict[str, dict[int, float]]:
        """metrics.csv by column and step, as far as it can be read."""
        found: dict[str, dict[int, float]] = {}
        try:
            with (self.path / "metrics.csv").open(newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.DictReader(file):
                    step = row.pop("step", "") or ""
                    for name, text in row.items():
                        if (
                            isinstance(name, str)
                            and step.isdecimal()
                            and len(step) < 16
                            and (value := _float(text)) is not None
                        ):
                            found.setdefault(name, {})[int(step)] = value
        except FileNotFoundError:
            pass
        except (OSError, csv.Error) as error:
            self.problems.append(f"{self.path / 'metrics.csv'}: not readable ({type(error).__name__}), so left out")
        return found

    def picture(self) -> Path | None:
        """The last picture of samples."""
        return max((self.path / "samples").glob("step_*.png"), default=None)


def read_runs(folders: Sequence[Path]) -> tuple[list[RunFolder], list[Skipped]]:
    """All runs in or below the folders, in natural order of their paths, each once."""
    runs: dict[Path, RunFolder] = {}
    skipped: dict[Path, Skipped] = {}
    for folder in folders:
        if not os.path.isdir(folder):  # pathlib's raises for a name that is too long
            raise UserError(f"{folder}: no such folder; allowed are run folders, and folders above them")
        for path in _candidates(folder):
            if path.resolve() in runs or path.resolve() in skipped:
                continue
            try:
                runs[path.resolve()] = read_run(path)
            except UserError as error:
                skipped[path.resolve()] = Skipped(path, str(error))
            except OSError as error:
                skipped[path.resolve()] = Skipped(path, f"cannot be read ({error.strerror})")
    return joined(list(runs.values())), list(skipped.values())


def joined(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """One for each run, where some are the same: a copy, or an evaluation that is kept apart, without the run's own numbers."""
    known: dict[str, list[RunFolder]] = {}
    for run in sorted(runs, key=lambda run: not run.summary):  # those with numbers first
        same = known.setdefault(json.dumps(run.config, default=str), [])
        if (first := next((other for other in same if run.summary in ({}, other.summary)), None)) is None:
            same.append(run)
            continue
        there = {(arm.folder.name, json.dumps(arm.choice, default=str)) for arm in first.evaluated}
        first.evaluated += [arm for arm in run.evaluated if (arm.folder.name, json.dumps(arm.choice, default=str)) not in there]
        first.evaluated.sort(key=lambda arm: (arm.folder / "evaluation.json").stat().st_mtime)
        first.problems += run.problems
    kept = {id(run) for same in known.values() for run in same}
    return [run for run in runs if id(run) in kept]


def _candidates(folder: Path) -> Iterator[Path]:
    """Folders with a config.yaml, and below them no other; and those at the bottom that have none."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: natural(entry.name), reverse=True)
        except OSError:
            yield here
            continue
        names = {entry.name for entry in entries}
        below = [entry for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")]
        if "config.yaml" in names or not (below or {OWN, "index.html"} <= names):
            yield here
        else:
            waiting += [Path(entry.path) for entry in below]


def natural(name: str) -> list[tuple[int, str]]:
    """2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", name)]


def read_run(path: Path) -> RunFolder:
    """Raises UserError that says why there is nothing to compare."""
    if not (path / "config.yaml").is_file():
        raise UserError("empty" if not any(path.iterdir()) else "not a run folder (it has no config.yaml)")
    config = _config(path / "config.yaml")
    summary = _json(path / "summary.json") if (path / "summary.json").exists() else None
    problems: list[str] = []
    evaluated = list(_evaluations(path, problems))
    if summary is None and not evaluated:
        raise UserError("has no summary.json: its training has not ended")
    summary = summary or {}
    run = RunFolder(path, config, summary, _of_summary(summary, path, problems), evaluated, problems)
    if (bound := run.numbers.get("bound_bpd")) is not None:
        run.numbers["bound_bpd"] = bound._replace(per_datum=run.vlb_terms)
    planned, step = said(config, "trainer", "max_steps"), summary.get("step")
    if isinstance(step, int) and isinstance(planned, int) and step < planned:
        problems.append(f"{path}: was measured at step {step} of {planned}")
    return run


def said(config: Any, *keys: str) -> Any:
    """What stands under the keys, or None."""
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        json.dumps(config, default=str)  # which refuses what holds itself
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError("config.yaml is not readable as YAML") from error
    if type(said(config, "seed")) is not int or not isinstance(said(config, "schedule"), dict):
        raise UserError("config.yaml is not one of a run (it has no seed and schedule)")
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not readable as JSON (cut short?)") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} holds no numbers of a run")
    return content


def _of_summary(summary: dict[str, Any], path: Path, problems: list[str]) -> dict[str, Number]:
    metrics = summary.get("metrics")
    numbers = {}
    for key, told in (metrics if isinstance(metrics, dict) else {}).items():
        value = _float(told.get("value")) if isinstance(told, dict) else None
        if value is None:
            problems.append(f"{path}: {key} is no finite number, so left out")
        else:
            record = {k: v for k, v in told.items() if k not in ("value", "standard_error")}
            numbers[key] = Number(value, _float(told.get("standard_error")), record)
    return numbers


def _evaluations(run: Path, problems: list[str]) -> Iterator[EvaluatedArm]:
    """Of all evaluations, oldest first: what is measured again replaces what was before."""
    paths = sorted((run / "eval").glob("*/evaluation.json"), key=lambda path: path.stat().st_mtime)
    for path in paths:
        try:
            content = _json(path)
            for arm in content["arms"]:
                yield _arm(arm, content, path.parent, problems)
        except UserError as error:
            problems.append(f"{path}: {error}, so left out")
        except (KeyError, TypeError, AttributeError, ValueError):
            problems.append(f"{path}: is not as evaluate.py writes it, so left out")


def _arm(arm: dict[str, Any], content: dict[str, Any], folder: Path, problems: list[str]) -> EvaluatedArm:
    numbers = {}
    for result in arm["results"]:
        if (value := _float(result["value"])) is not None:
            file = said(arm, "per_datum", result["key"])
            own = Arrays(folder / Path(file).name, problems) if isinstance(file, str) else None
            numbers[str(result["key"])] = Number(value, _float(result.get("standard_error")), dict(result["record"]), own)
    choice = {"sampler": arm["sampler"], "steps": arm["steps"], "variance": arm["variance"], "weights": content["weights"]}
    picture = folder / Path(arm["picture"]).name if arm.get("picture") else None
    return EvaluatedArm(choice, numbers, folder, picture if picture and picture.exists() else None)


def _float(value: object) -> float | None:
    """As a finite number, whose square is one too."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < LARGEST else None
