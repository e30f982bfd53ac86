"""The command line that trains the configuration of a run again, under further seeds."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_lab.compare.chance_words import counted
from ddpm_lab.compare.choices import OptionNames, flat_config
from ddpm_lab.compare.number import nested
from ddpm_lab.compare.plan import MOST, trainings
from ddpm_lab.compare.report import ComparisonReport
from ddpm_lab.compare.run_folder import RunFolder
from ddpm_lab.config.grammar import BASE
from ddpm_lab.config.nested import leaves, plain
from ddpm_lab.config.options import options
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError
from ddpm_lab.files import read_json
from ddpm_lab.sweeps.quoting import argument

OWN = ("run", "sweep", "launcher", "logger", "seed", "resume", "base")
"""Groups and keys that may differ between two runs of one configuration."""


def planned(report: ComparisonReport, names: OptionNames, dirs: Sequence[Path]) -> list[str]:
    """What `compare.py FOLDER plan` prints: a line of train.py for each configuration, with its hours."""
    todo, too_many = trainings(report)
    lines, seconds, untimed, any_line = [], 0.0, False, False
    for training in todo:
        seeds = sorted(training.seeds)
        each = training.seconds
        cost = "not timed" if each is None else f"about {each * len(seeds) / 3600:.2g} h"
        lines.append(f"# {training.label}: {counted(len(seeds), 'more seed')}, {cost}")
        try:
            lines.append(line(words_of(training.run, names, dirs), seeds))
            seconds, untimed, any_line = seconds + (each or 0.0) * len(seeds), untimed or each is None, True
        except UserError as error:
            lines.append(f"# {training.run.path} cannot be repeated by a command line: {error}")
    for c in too_many:
        lines.append(f"# {c.choice.label} on {c.measure.label}: left out, it needs more than {MOST} further seeds")
    if not lines:
        return ["# nothing to train: no open comparison needs more seeds"]
    if not any_line:
        return lines
    some = " for those that were timed" if untimed else ""
    total = f"# about {seconds / 3600:.2g} h of training and sampling in all{some}"
    return [*lines, f"{total}; evaluate the new runs as those before"]


def line(words: Sequence[str], seeds: Sequence[int]) -> str:
    return shlex.join(["python", "train.py", "-m", *words, f"seed={','.join(map(str, seeds))}"])


def words_of(run: RunFolder, names: OptionNames, dirs: Sequence[Path]) -> list[str]:
    """Arguments that make the configuration of a run but for `OWN`: those of its sweep, or its experiment; and what differs
    from it. Raises UserError where none do."""
    from ddpm_lab.config.combinations import resolve_auto
    from ddpm_lab.config.unfitted import MEASURED

    config = run.config
    if config.get("resume") or config.get("base") or "imported" in config:
        raise UserError("it goes on from other weights")
    words, wanted, made, differing = _typed(run, dirs), _own_left_out(config), dict[str, Any](), dict[str, Any]()
    for _ in range(3):
        (arm,) = preflight([*words, *BASE], dirs, check=lambda config, dirs, _: resolve_auto(config, dirs))
        made = _own_left_out(plain(arm.config))
        differing = {key: value for key, value in wanted.items() if key not in made or made[key] != value}
        again = {key for key in MEASURED if made.get(key) is None}  # a fit before training writes them again
        differing = {key: value for key, value in differing.items() if key not in again}
        if not differing:
            break
        words = _with(words, differing, names)
    if differing:
        raise UserError(f"{next(iter(differing))} is not as any option has it")
    compared = flat_config(made)
    if later := [key for key in made if key not in wanted and key in compared]:
        raise UserError(f"{later[0]} was not known to the version that trained it")
    preflight([*words, *BASE], dirs)  # it can be trained
    return words


def _own_left_out(config: Mapping[str, Any]) -> dict[str, Any]:
    return leaves({key: value for key, value in config.items() if key not in OWN})


def _typed(run: RunFolder, dirs: Sequence[Path]) -> list[str]:
    """As sweep.json has it, else the experiment alone."""
    try:
        entries = {str(entry["number"]): entry["overrides"] for entry in read_json(run.path.parent / "sweep.json")["arms"]}
        words = [str(word) for word in entries[run.path.name]]
        return [word for word in words if word.lstrip("+~").partition("=")[0].partition(".")[0] not in OWN]
    except (OSError, ValueError, KeyError, TypeError):
        experiment = str(nested(run.config, "run", "experiment"))
        return [f"experiment={experiment}"] if experiment in options("experiment", dirs) else []


def _with(words: Sequence[str], differing: Mapping[str, Any], names: OptionNames) -> list[str]:
    """Further arguments, an option where the `_target_` of its group differs."""
    chosen = {}
    for key, value in differing.items():
        group, _, rest = key.partition(".")
        if rest == "_target_" and (option := names.get((group, str(value)))):
            chosen[group] = option
    typed = {word.partition("=")[0]: word for word in words} | {group: f"{group}={option}" for group, option in chosen.items()}
    for key, value in differing.items():
        if key.partition(".")[0] not in chosen:
            typed[key] = _argument(key, value)
    return list(typed.values())


def _argument(key: str, value: Any) -> str:
    return argument(key, value) if isinstance(value, str) else f"{key}={json.dumps(value, default=str)}"
