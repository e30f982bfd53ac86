"""Run folders: what they hold, and how they are found below other folders and read. A folder that cannot be compared is skipped
with the reason."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ddpm_lab.compare.number import Arrays, Number, finite, leaving_out, nested, number_of
from ddpm_lab.errors import UserError
from ddpm_lab.files import check_as_written, read_json, read_yaml
from ddpm_lab.metrics.record import Plain


@dataclass
class EvaluatedArm:
    """The numbers of a trained run under one choice of sampler and variance."""

    choice: dict[str, Plain]
    numbers: dict[str, Number]
    folder: Path
    picture: Path | None


class DescribedCurve(NamedTuple):
    """One entry of curves.json: what the model says of itself, as ᾱ over t/T."""

    title: str
    alt: str
    x_label: str
    y_label: str
    points: tuple[tuple[float, float], ...]


@dataclass
class RunFolder:
    """A run that has ended or was evaluated."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    numbers: dict[str, Number]
    evaluated: list[EvaluatedArm] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @cached_property
    def network(self) -> Path:
        """The folder of the run that trained the weights: of arms that share their training, another arm of the sweep."""
        trained_in = self.summary.get("trained_in")
        if not isinstance(trained_in, str):
            return self.path.resolve()
        sibling = self.path.parent / Path(trained_in).name  # also where the sweep was moved
        return (sibling if sibling.is_dir() else Path(trained_in)).resolve()

    @cached_property
    def vlb_terms(self) -> Arrays:
        return Arrays(self.path / "vlb_terms.npz", self.problems)

    @cached_property
    def history(self) -> dict[str, dict[int, float]]:
        """metrics.csv by column and step, as far as it can be read."""
        return columns(self.path / "metrics.csv", "step", self.problems)

    @cached_property
    def described(self) -> list[DescribedCurve]:
        """curves.json; empty where it is missing or malformed."""
        path = self.path / "curves.json"
        with leaving_out(path, self.problems, "is not as train.py writes it, so its curves are not plotted"):
            check_as_written(path)
            return [_described(entry) for entry in read_json(path)]
        return []


def columns(path: Path, by: str, problems: list[str]) -> dict[str, dict[int, float]]:
    """The finite numbers of a CSV file, by column and by the whole number in the column `by`, as far as it can be read."""
    found: dict[str, dict[int, float]] = {}
    with leaving_out(path, problems), path.open(newline="", encoding="utf-8", errors="replace") as file:
        check_as_written(path)
        for row in csv.DictReader(file):
            place = row.pop(by, "") or ""
            if place.isdecimal() and len(place) < 16:
                for name, text in row.items():
                    if name and (value := finite(text)) is not None:
                        found.setdefault(name, {})[int(place)] = value
    return found


def _described(entry: Any) -> DescribedCurve:
    x, y = (map(finite, entry[axis]["values"]) for axis in "xy")
    points = tuple((a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None)  # log-SNR may be infinite
    return DescribedCurve(str(entry["title"]), str(entry["alt"]), str(entry["x"]["label"]), str(entry["y"]["label"]), points)


class Skipped(NamedTuple):
    path: Path
    why: str


def read_runs(folders: Sequence[Path]) -> tuple[list[RunFolder], list[Skipped]]:
    """All runs in or below the folders, in natural order of their paths, each once."""
    runs: dict[Path, RunFolder] = {}
    skipped: dict[Path, Skipped] = {}
    for folder in folders:
        if not os.path.isdir(folder):  # pathlib raises for a name that is too long
            raise UserError(f"{folder}: no such folder; allowed are run folders, and folders above them")
        for path in _candidates(folder):
            place = path.resolve()
            if place in runs or place in skipped:
                continue
            try:
                runs[place] = read_run(path)
            except (UserError, OSError) as error:
                why = str(error) if isinstance(error, UserError) else f"cannot be read ({error.strerror})"
                skipped[place] = Skipped(path, why)
    return merge_copies(list(runs.values())), list(skipped.values())


def merge_copies(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """One folder per run: copies, and evaluations that lie apart from their run, are merged into the run."""
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
    """Folders with a config.yaml, none of which is below another; and the lowest folders that have none, but for
    the figures of a report."""
    waiting = [(folder, False)]
    while waiting:
        here, drawn = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: natural(entry.name), reverse=True)
        except OSError:
            yield here
            continue
        names = {entry.name for entry in entries}
        below = [entry for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")]
        report = names >= {"table.csv", "index.html"}  # of compare.py
        if "config.yaml" in names or not (below or report or drawn):
            yield here
        else:
            waiting += [(Path(entry.path), drawn or (report and entry.name == "figures")) for entry in below]


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", name)]


def read_run(path: Path) -> RunFolder:
    """Raises UserError with the reason why there is nothing to compare."""
    if not (path / "config.yaml").is_file():
        raise UserError("empty" if not any(path.iterdir()) else "not a run folder (it has no config.yaml)")
    config, problems = _read(path / "config.yaml", read_yaml, "YAML"), []
    if not is_run(config):
        raise UserError("config.yaml is not one of a run (it has no seed, or neither schedule nor model)")
    evaluated, summary = _evaluations(path, problems), {}
    if (path / "summary.json").exists():
        summary = _read(path / "summary.json", read_json, "JSON (cut short?)")
    elif not evaluated:
        raise UserError("has no summary.json: its training has not ended")
    if not isinstance(summary, dict):
        raise UserError("summary.json holds no numbers of a run")
    run = RunFolder(path, config, summary, _of_summary(summary, path, problems), evaluated, problems)
    if (bound := run.numbers.get("bound_bpd")) is not None:
        run.numbers["bound_bpd"] = bound._replace(per_datum=run.vlb_terms)
    planned, step = nested(config, "trainer", "max_steps"), summary.get("step")
    if isinstance(step, int) and isinstance(planned, int) and step < planned:
        problems.append(f"{path}: was measured at step {step} of {planned}")
    return run


def is_run(config: Any) -> bool:
    """Whether a configuration is one of a run: it has a seed, and a schedule or a model."""
    return type(nested(config, "seed")) is int and any(isinstance(nested(config, key), dict) for key in ("schedule", "model"))


def _read(path: Path, reader: Callable[[Path], Any], form: str) -> Any:
    try:
        check_as_written(path)
        content = reader(path)
        json.dumps(content, default=str)  # raises for YAML that contains itself
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path.name} is not readable as {form}") from error
    return content


def _of_summary(summary: Mapping[str, Any], path: Path, problems: list[str]) -> dict[str, Number]:
    metrics, numbers = summary.get("metrics"), {}
    for key, entry in (metrics if isinstance(metrics, dict) else {}).items():
        if (value := finite(nested(entry, "value"))) is not None:
            record = {name: field for name, field in entry.items() if name not in ("value", "standard_error")}
            numbers[key] = Number(value, finite(entry.get("standard_error")), record)
        else:
            problems.append(f"{path}: {key} is no finite number, so left out")
    return numbers


def _evaluations(run: Path, problems: list[str]) -> list[EvaluatedArm]:
    """Of all evaluations, oldest first: a later measurement replaces an earlier one."""
    arms: list[EvaluatedArm] = []
    for path in sorted((run / "eval").glob("*/evaluation.json"), key=lambda path: path.stat().st_mtime):
        with leaving_out(path, problems, "is not as evaluate.py writes it, so left out"):
            content = _read(path, read_json, "JSON (cut short?)")
            for arm in content["arms"]:
                weights = arm["weights"] if "weights" in arm else content["weights"]  # that differ in it, or not
                arms.append(_evaluated_arm(arm, weights, path.parent, problems))
    return arms


def _evaluated_arm(arm: dict[str, Any], weights: str, folder: Path, problems: list[str]) -> EvaluatedArm:
    numbers = {}
    for result in arm["results"]:
        file, key = nested(arm, "per_datum", result["key"]), str(result["key"])
        arrays = Arrays(folder / Path(file).name, problems) if isinstance(file, str) else None
        if (number := number_of(result, arrays, f"{folder / 'evaluation.json'}: {key}", problems)) is not None:
            numbers[key] = number
    choice = {key: arm[key] for key in ("sampler", "steps", "variance")} | {"weights": weights}
    choice |= {key: str(arm[key]) for key in ("guidance", "setting") if arm.get(key)}
    picture = folder / Path(arm["picture"]).name if arm.get("picture") else None
    return EvaluatedArm(choice, numbers, folder, picture if picture and picture.exists() else None)
