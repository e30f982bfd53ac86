"""Answer a user's mistakes before torch is imported and before any folder is made: keys, values, combinations."""

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddpm_lab import processes
from ddpm_lab.config.catalogue import Catalog
from ddpm_lab.config.compat import check_compatible, resolve_auto
from ddpm_lab.config.grammar import Setting, Span, columns, expand, of_sweep, read_command_line
from ddpm_lab.config.options import config_dirs, nearest
from ddpm_lab.config.schema import MISSING, Rule
from ddpm_lab.errors import UserError


class Arm(NamedTuple):
    """One run: its arguments (none of `hydra.*`, `sweep` or `launcher`), the configuration they make, `auto` resolved, the
    option of each group. With `spans` it is a corner of what is searched."""

    overrides: list[str]
    config: DictConfig
    choices: dict[str, str | None]
    spans: dict[str, Span]


Composed = tuple[DictConfig, dict[str, str | None]]
Check = Callable[[DictConfig, Sequence[Path], bool], None]
"""Of a whole configuration whose single values are right: (configuration, folders of options, whether in a sweep)."""
LOCAL = "ddpm_lab.sweeps.local.Local"


def preflight(argv: Sequence[str], dirs: Sequence[Path] | None = None, check: Check | None = None) -> list[Arm]:
    """Every run that these arguments ask for, checked; empty if they only ask Hydra to show something. The first of `dirs`
    has the root, config.yaml; `check` completes a configuration and refuses what cannot be (by default that of training)."""
    line = read_command_line(argv)
    if line is None:
        return []
    dirs, check = dirs or config_dirs(argv), check or _can_be_trained
    catalog = Catalog(dirs)
    composer = _Composer(catalog)
    arms: list[Arm] = []
    refused: dict[str, list[str]] = {}
    with initialize_config_dir(str(dirs[0]), version_base="1.3", job_name="ddpm_lab"):
        typed = columns(line.arguments, line.sweep, catalog)
        for settings in expand(typed, _ready(typed, composer) if line.sweep else [], catalog):
            overrides = [setting.typed for setting in settings if not of_sweep(setting.key)]
            spans = {setting.key: setting.span for setting in settings if setting.span}
            try:
                arm = Arm(overrides, *_checked(settings, composer, check, line.sweep), spans)
                _check_spans(arm)
                arms.append(arm)
            except UserError as error:
                refused.setdefault(str(error), []).append(" ".join(overrides))
    if refused:
        raise UserError(_report(refused, len(arms)))
    return arms if line.runs else []


def _check_spans(arm: Arm) -> None:
    if arm.spans and "trials" not in (arm.config.get("sweep") or {}):
        typed = next(iter(arm.spans.values())).typed
        search = "; or let a search choose: sweep=search" if "sweep" in arm.config else ""
        raise UserError(f"{typed}: an interval has no end of values; list them, or use range(start, stop, step){search}")


def _ready(typed: Mapping[str, list[Setting]], composer: "_Composer") -> list[str]:
    """The lines of the sweep that was chosen, by name or by an experiment."""
    if "sweep" not in composer.catalog.groups:  # of evaluate.py
        return []
    if "sweep.arms" in typed:
        return _lines(typed["sweep.arms"][0].value)
    choices = ([setting.typed for setting in typed.get(group, [])] or [None] for group in ("experiment", "sweep"))
    found = [_lines(composer([word for word in pair if word])[0].sweep.arms) for pair in itertools.product(*choices)]
    if any(lines != found[0] for lines in found):
        raise UserError("experiment: one of these is a sweep itself, which goes alone")
    return found[0]


def _lines(value: Any) -> list[str]:
    """Empty for what the rule of the key refuses later."""
    try:
        lines = list(value) if isinstance(value, list | ListConfig) else []
    except OmegaConfBaseException as error:  # ${...} that leads nowhere
        raise UserError(f"sweep.arms: {_first_line(error)}") from error
    return lines if all(isinstance(line, str) for line in lines) else []


def _report(refused: Mapping[str, list[str]], n_good: int) -> str:
    """One problem of every run is said once; otherwise each problem with the runs that have it."""
    if len(refused) == 1 and not n_good:
        return next(iter(refused))
    n_bad = sum(map(len, refused.values()))
    lines = [f"{n_bad} of the {n_bad + n_good} runs of this sweep cannot work, so none was started:"]
    for problem, runs in refused.items():
        lines += [problem, *(f"  {run}" for run in runs)]
    return "\n".join(lines)


class _Composer:
    """Hydra's compose, once for each choice of options: it takes 0.1 s, and a sweep asks for many alike."""

    def __init__(self, catalog: Catalog):
        self.catalog = catalog
        self._known: dict[tuple[str, ...], Composed] = {}

    def __call__(self, choices: Sequence[str]) -> Composed:
        key = tuple(sorted(choices))
        if key not in self._known:
            self._known[key] = self._compose(key)
        config, chosen = self._known[key]
        return copy.deepcopy(config), chosen

    def _compose(self, choices: Sequence[str]) -> Composed:
        own = ",".join(QuotedString(f"file://{folder}", Quote.single).with_quotes() for folder in self.catalog.dirs[1:])
        search = [f"hydra.searchpath=[{own}]"] if own else []
        try:
            config = compose("config", [*choices, *search], return_hydra_config=True)
        except MissingConfigException as error:  # an experiment chose what is not there
            group, _, option = str(error.missing_cfg_file).partition("/")
            raise self.catalog.unknown_option(group, option, "chosen in a file: ") from error
        except YAMLError as error:  # names the file at its end
            raise UserError(" ".join(str(error).split())) from error
        except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
            raise UserError(_first_line(error)) from error
        except RecursionError as error:
            raise UserError(f"{' '.join(choices)}: an option that builds on itself, in its defaults") from error
        with open_dict(config):
            chosen = config.pop("hydra").runtime.choices
        if "sweep" in self.catalog.groups:
            _check_sweep(config.get("sweep"), str(chosen.get("sweep")), self.catalog)
        return config, {group: chosen.get(group) for group in self.catalog.groups}


def _check_sweep(given: Any, option: str, catalog: Catalog) -> None:
    """Refuse keys of a sweep's file that reach nothing, and a file that lacks what all have."""
    needed, known = ({key.partition(".")[2] for key in catalog.rules("sweep", name)} for name in ("none", "search"))
    keys = set(given) if isinstance(given, DictConfig) else set()
    if not needed <= keys:
        base = "/sweep/none@_here_" if "/" in option else "none"
        raise UserError(f"sweep={option}: {catalog.options['sweep'][option]} needs a line: defaults: [{base}, _self_]")
    if unknown := sorted(keys - known):
        close = nearest(unknown[0], known)
        meant = f" Did you mean {close}?" if close else ""
        raise UserError(f"sweep={option} sets {unknown[0]}: no such key.{meant} It has {', '.join(sorted(known))}")


def _first_line(error: BaseException) -> str:
    while not str(error).strip() and error.__cause__:
        error = error.__cause__
    return re.split(r"\n|\. ", str(error).strip(), maxsplit=1)[0] or type(error).__name__


def _checked(settings: Sequence[Setting], composer: _Composer, check: Check, sweep: bool) -> Composed:
    catalog = composer.catalog
    config, choices = composer([setting.typed for setting in settings if setting.key in catalog.groups])
    rules = catalog.rules_for(choices)
    _check_keys_of_files(config, rules, choices, catalog, sweep)
    typed = {setting.key: setting for setting in settings if setting.key not in catalog.groups}
    for setting in typed.values():
        _apply(setting, config, rules, choices, catalog)
    values = _resolved(config)
    for key, rule in rules.items():
        _check_value(key, _at(values, key), rule, typed.get(key))
    check(config, catalog.dirs, sweep)
    return config, choices


def _can_be_trained(config: DictConfig, dirs: Sequence[Path], sweep: bool) -> None:
    _check_place(_resolved(config), sweep)
    resolve_auto(config, dirs)
    if config.resume is None:  # else most of the configuration is the stored run's: `resumed` checks what comes out
        check_compatible(config, dirs)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif key != "_target_":
            yield f"{prefix}{key}"


def _check_keys_of_files(
    config: DictConfig, rules: Mapping[str, Rule], choices: Mapping[str, str | None], catalog: Catalog, sweep: bool
) -> None:
    """Refuse a key that an experiment sets and the chosen option lacks: Hydra would add it, and it would reach nothing. What is
    about sweeps reaches nothing in a single run, and may be of any option."""
    if not sweep:
        rules = {key: rule for key, rule in catalog.all_rules().items() if of_sweep(key)} | dict(rules)
    plain = cast(dict[str, Any], OmegaConf.to_container(config))
    for key in _leaves(plain):
        if key not in rules:
            source = f"experiment={choices.get('experiment')} sets {key}"
            if key.partition(".")[0] in catalog.groups:
                raise catalog.missing_key(source, key, choices)
            raise catalog.unknown_key(source, key, "...")


def _apply(
    setting: Setting,
    config: DictConfig,
    rules: Mapping[str, Rule],
    choices: Mapping[str, str | None],
    catalog: Catalog,
) -> None:
    if setting.key not in rules:
        raise catalog.missing_key(setting.typed, setting.key, choices)
    try:
        OmegaConf.update(config, setting.key, setting.value)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f"{setting.typed}: {_first_line(error)}") from error


def _resolved(config: DictConfig) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except (OmegaConfBaseException, ValueError) as error:  # ${...} that leads nowhere
        key = getattr(error, "full_key", None)
        raise UserError(f"{key}: {_first_line(error)}" if key else _first_line(error)) from error


def _at(values: Mapping[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _check_value(key: str, value: object, rule: Rule, setting: Setting | None) -> None:
    if value == MISSING:
        raise UserError(f"{key} is needed: {rule.allowed}: {rule.meaning}; type {key}=...")
    rule.check(key, value, setting.typed.partition("=")[2] if setting else None)


def _check_place(values: Mapping[str, Any], sweep: bool) -> None:
    """What a single key's rule cannot say: where runs and their processes have a place."""
    devices, nodes, name = (_at(values, key) for key in ("trainer.devices", "trainer.num_nodes", "run.name"))
    if sweep and nodes != 1:
        raise UserError(
            f"trainer.num_nodes={nodes}: a sweep (-m) stays on one machine; start these runs one by one, without -m"
        )
    if not sweep and (ready := _at(values, "sweep.arms")):
        raise UserError(f"this experiment is a sweep ({'; '.join(ready)}): add -m, or sweep.arms=[] for its base alone")
    if not sweep and _at(values, "launcher._target_") not in (None, LOCAL):
        raise UserError("this experiment chooses a launcher, which is about a sweep: add -m, or launcher=local")
    if _at(values, "trainer.fast_dev_run") is True and (devices, nodes) != (1, 1):
        raise UserError("trainer.fast_dev_run=true tries one step in one process: use trainer.devices=1 trainer.num_nodes=1")
    if nodes != 1 and not processes.in_torchrun() and not processes.in_slurm():
        raise UserError(
            f"trainer.num_nodes={nodes}: start this by torchrun or srun on each of {nodes} machines; alone it would wait"
        )
    if sweep and (experiment := _at(values, "run.experiment")) is not None:
        raise UserError(
            f"run.experiment={experiment}: the runs of a sweep (-m) go to <run.root>/multirun/<sweep.name>: leave it out"
        )
    if sweep and name is not None:
        raise UserError(
            f"run.name={name}: the runs of a sweep (-m) would share this folder; leave run.name out, or set run.root"
        )
    for key in ("run.name", "sweep.name"):
        if isinstance(given := _at(values, key), str) and not is_folder_name(given):
            raise UserError(f"{key}={given}: allowed is a folder name, without / and no dot in front; see also run.root")
    experiment = _at(values, "run.experiment")
    if isinstance(experiment, str) and not all(map(is_folder_name, experiment.split("/"))):
        raise UserError(
            f"run.experiment={experiment}: allowed is a folder name, or several with / between, none with a dot in front"
        )


def is_folder_name(name: str) -> bool:
    """Whether one folder can be called so, and is not hidden."""
    printable = name.isprintable() and not set(name) & set("/\\")
    return printable and name != "" and name[0] != "." and len(name.encode()) <= 255
