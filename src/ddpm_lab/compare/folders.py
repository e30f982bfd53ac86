"""Finds run folders below other folders and reads them; a folder that cannot be compared is skipped with the reason."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ddpm_lab.compare.run_folder import Arrays, EvaluatedArm, Number, RunFolder, finite, leaving_out, nested
from ddpm_lab.errors import UserError
from ddpm_lab.files import read_json, read_yaml

PAGE_FILES = {"table.csv", "index.html"}
"""A folder that holds both, and no run, is a report of compare.py."""


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
            except UserError as error:
                skipped[place] = Skipped(path, str(error))
            except OSError as error:
                skipped[place] = Skipped(path, f"cannot be read ({error.strerror})")
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
    """Folders with a config.yaml, none of which is below another; and the lowest folders that have none."""
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
        if "config.yaml" in names or not (below or names >= PAGE_FILES):
            yield here
        else:
            waiting += [Path(entry.path) for entry in below]


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", name)]


def read_run(path: Path) -> RunFolder:
    """Raises UserError with the reason why there is nothing to compare."""
    if not (path / "config.yaml").is_file():
        raise UserError("empty" if not any(path.iterdir()) else "not a run folder (it has no config.yaml)")
    config, problems = _config(path / "config.yaml"), []
    ended = (path / "summary.json").exists()
    summary, evaluated = _json(path / "summary.json") if ended else {}, _evaluations(path, problems)
    if not ended and not evaluated:
        raise UserError("has no summary.json: its training has not ended")
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


def _config(path: Path) -> dict[str, Any]:
    try:
        config = read_yaml(path)
        json.dumps(config, default=str)  # raises for a structure that contains itself
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError("config.yaml is not readable as YAML") from error
    if not is_run(config):
        raise UserError("config.yaml is not one of a run (it has no seed, or neither schedule nor model)")
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not readable as JSON (cut short?)") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} holds no numbers of a run")
    return content


def _of_summary(summary: Mapping[str, Any], path: Path, problems: list[str]) -> dict[str, Number]:
    metrics = summary.get("metrics")
    numbers = {}
    for key, entry in (metrics if isinstance(metrics, dict) else {}).items():
        if (value := finite(nested(entry, "value"))) is None:
            problems.append(f"{path}: {key} is no finite number, so left out")
        else:
            record = {name: field for name, field in entry.items() if name not in ("value", "standard_error")}
            numbers[key] = Number(value, finite(entry.get("standard_error")), record)
    return numbers


def _evaluations(run: Path, problems: list[str]) -> list[EvaluatedArm]:
    """Of all evaluations, oldest first: a later measurement replaces an earlier one."""
    arms: list[EvaluatedArm] = []
    for path in sorted((run / "eval").glob("*/evaluation.json"), key=lambda path: path.stat().st_mtime):
        with leaving_out(path, problems, "is not as evaluate.py writes it, so left out"):
            content = _json(path)
            for arm in content["arms"]:
                arms.append(_evaluated_arm(arm, content["weights"], path.parent, problems))
    return arms


def _evaluated_arm(arm: dict[str, Any], weights: str, folder: Path, problems: list[str]) -> EvaluatedArm:
    numbers = {}
    for result in arm["results"]:
        if (value := finite(result["value"])) is not None:
            file = nested(arm, "per_datum", result["key"])
            arrays = Arrays(folder / Path(file).name, problems) if isinstance(file, str) else None
            numbers[str(result["key"])] = Number(value, finite(result.get("standard_error")), dict(result["record"]), arrays)
    choice = {key: arm[key] for key in ("sampler", "steps", "variance")} | {"weights": weights}
    if arm.get("setting"):
        choice["setting"] = str(arm["setting"])
    picture = folder / Path(arm["picture"]).name if arm.get("picture") else None
    return EvaluatedArm(choice, numbers, folder, picture if picture and picture.exists() else None)
