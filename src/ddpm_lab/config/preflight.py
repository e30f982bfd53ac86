"""Answer a user's mistakes before any folder is made: names from the yaml files alone, before torch is imported; then values
and combinations, of the classes and functions that were chosen."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddpm_lab.config.catalogue import OPEN, Catalog, Choices
from ddpm_lab.config.flags import config_dirs, read_command_line
from ddpm_lab.config.grammar import Setting, columns, expand, of_sweep
from ddpm_lab.config.nested import first_line, leaves, plain
from ddpm_lab.errors import UserError
from ddpm_lab.sweeps.plan import Span


class Arm(NamedTuple):
    """One run: its arguments (none of `sweep` or `launcher`), the configuration they make, `auto` resolved, the option of each
    group. With `spans` it is a corner of what is searched."""

    overrides: list[str]
    config: DictConfig
    choices: dict[str, str | None]
    spans: dict[str, Span]
    typed: dict[str, str]
    """The value of each key that was typed, as text."""
    auto: str | None = None
    """The option that `variance=auto` stands for."""


Composed = tuple[DictConfig, dict[str, str | None]]
Check = Callable[[DictConfig, Sequence[Path], bool], str | None]
"""Of a whole configuration whose single values are right: (configuration, folders of options, whether in a sweep) to the option
that `variance=auto` stands for."""
Item = TypeVar("Item")
VERSION: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
"""Later versions of Hydra take no version_base."""


def preflight(argv: Sequence[str], dirs: Sequence[Path] | None = None, check: Check | None = None) -> list[Arm]:
    """Every run that these arguments ask for, checked; empty if they only ask Hydra to show something. The first of `dirs`
    has the root, config.yaml; `check` completes a configuration and refuses what cannot be (by default that of training)."""
    line = read_command_line(argv)
    if line is None:
        return []
    dirs, check = dirs or config_dirs(argv), check or partial(_can_be_trained, good=set())
    catalog = Catalog.of(*dirs)
    typed = columns(line.arguments, line.sweep, catalog)
    runs = expand(typed, _ready(typed, catalog) if line.sweep else [], catalog)
    arms = _each(runs, _overrides, lambda settings: _named(settings, catalog, line.sweep))
    return _valued(arms, catalog, check, line.sweep) if line.runs else []


def _each(items: Sequence[Item], words: Callable[[Item], list[str]], step: Callable[[Item], Arm]) -> list[Arm]:
    """What the step makes of each. Raises UserError with every refusal, and the runs that have it."""
    arms: list[Arm] = []
    refused: dict[str, list[str]] = {}
    for item in items:
        try:
            arms.append(step(item))
        except UserError as error:
            refused.setdefault(str(error), []).append(" ".join(words(item)))
    if refused:
        raise UserError(_report(refused, len(arms)))
    return arms


def _report(refused: Mapping[str, list[str]], n_good: int) -> str:
    """One problem of every run is said once; otherwise each problem with the runs that have it."""
    if len(refused) == 1 and not n_good:
        return next(iter(refused))
    n_bad = sum(map(len, refused.values()))
    lines = [f"{n_bad} of the {n_bad + n_good} runs of this sweep cannot work, so none was started:"]
    for problem, runs in refused.items():
        lines += [problem, *(f"  {run}" for run in runs)]
    return "\n".join(lines)


def _overrides(settings: Sequence[Setting]) -> list[str]:
    return [setting.typed for setting in settings if not of_sweep(setting.key)]


def _named(settings: Sequence[Setting], catalog: Catalog, sweep: bool) -> Arm:
    """A run whose groups, options and keys all exist."""
    words = sorted(setting.typed for setting in settings if setting.key in catalog.groups)
    config, choices = copy.deepcopy(_composed(catalog, *words))
    _check_keys_of_files(config, choices, catalog, sweep)
    typed = [setting for setting in settings if setting.key not in catalog.groups]
    for setting in sorted(typed, key=lambda setting: setting.key != "resume"):
        _apply(setting, config, choices, catalog)
    spans = {setting.key: setting.span for setting in settings if setting.span}
    texts = {setting.key: setting.typed.partition("=")[2] for setting in settings}
    return Arm(_overrides(settings), config, choices, spans, texts)


def _valued(arms: Sequence[Arm], catalog: Catalog, check: Check, sweep: bool) -> list[Arm]:
    """Values and combinations of each run; what was chosen is imported here."""
    from ddpm_lab.config.head import check_words
    from ddpm_lab.config.ineffective import ineffective
    from ddpm_lab.config.instantiate import permit
    from ddpm_lab.config.unused import drop_unused
    from ddpm_lab.config.values import check_values

    permit(catalog.dirs)

    def step(arm: Arm) -> Arm:
        if "model" in arm.config and arm.config.base is None:
            drop_unused(arm.config, arm.typed)
        check_values(catalog, plain(arm.config), arm.choices, arm.typed)
        if "model" in arm.config:
            check_words(arm.config, arm.choices, catalog)
        return arm._replace(auto=check(arm.config, catalog.dirs, sweep))

    arms = _each(arms, lambda arm: arm.overrides, step)
    if idle := ineffective([(plain(arm.config), set(arm.typed)) for arm in arms]):
        raise UserError("\n".join(idle))
    return arms


def _ready(typed: Mapping[str, list[Setting]], catalog: Catalog) -> list[str]:
    """The lines of the sweep that was chosen, by name or by an experiment."""
    if "sweep" not in catalog.groups:  # of evaluate.py
        return []
    if "sweep.arms" in typed:
        return _lines(typed["sweep.arms"][0].value)
    choices = ([setting.typed for setting in typed.get(group, [])] or [None] for group in ("experiment", "sweep"))
    each = [_lines(_composed(catalog, *filter(None, pair))[0].sweep.arms) for pair in itertools.product(*choices)]
    if any(lines != each[0] for lines in each):
        raise UserError("experiment: one of these is a sweep itself, which goes alone")
    return each[0]


def _lines(value: Any) -> list[str]:
    """Empty for what the rule of the key refuses later."""
    try:
        lines = list(value) if isinstance(value, list | ListConfig) else []
    except OmegaConfBaseException as error:  # ${...} that leads nowhere
        raise UserError(f"sweep.arms: {first_line(error)}") from error
    return lines if all(isinstance(line, str) for line in lines) else []


@cache
def _composed(catalog: Catalog, *choices: str) -> Composed:
    """Hydra's compose, once for each choice of options: it takes 0.1 s, and a sweep asks for many alike. To be copied."""
    typed = (word.lstrip("+~").partition("=") for word in choices)
    catalog.check_files(catalog.chosen({group: option for group, _, option in typed}))
    own = ",".join(QuotedString(f"file://{folder}", Quote.single).with_quotes() for folder in catalog.dirs[1:])
    search = [f"hydra.searchpath=[{own}]"] if own else []
    try:
        with initialize_config_dir(str(catalog.dirs[0]), job_name="ddpm_lab", **VERSION):
            config = compose("config", [*choices, *search], return_hydra_config=True)
    except MissingConfigException as error:  # an experiment chose what is not there
        group, _, option = str(error.missing_cfg_file).partition("/")
        raise catalog.unknown_option(group, option, "chosen in a file: ") from error
    except YAMLError as error:  # names the file at its end
        raise UserError(" ".join(str(error).split())) from error
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        raise UserError(first_line(error)) from error
    except RecursionError as error:
        raise UserError(f"{' '.join(choices)}: an option that builds on itself, in its defaults") from error
    with open_dict(config):
        chosen = config.pop("hydra").runtime.choices
    if "sweep" in catalog.groups:
        _check_sweep(config.get("sweep"), str(chosen.get("sweep")), catalog)
    return config, {group: chosen.get(group) for group in catalog.groups}


def _check_sweep(given: Any, option: str, catalog: Catalog) -> None:
    """Refuse a file of a sweep that lacks what all have."""
    needed = {key.partition(".")[2] for key in catalog.keys("sweep", "none")}
    if not needed <= set(given if isinstance(given, DictConfig) else ()):
        base = "/sweep/none@_here_" if "/" in option else "none"
        raise UserError(f"sweep={option}: {catalog.options['sweep'][option]} needs a line: defaults: [{base}, _self_]")


def _can_be_trained(config: DictConfig, dirs: Sequence[Path], sweep: bool, good: set[str]) -> str | None:
    from ddpm_lab.config.combinations import check_combination, check_optimiser, check_place, check_steps, resolve_auto
    from ddpm_lab.config.fit import check_fit

    check_place(plain(config), sweep)
    if config.base is not None:  # most of the configuration is that of the base: `headed` checks what comes out
        return None
    auto = resolve_auto(config, dirs)
    if config.resume is None:  # else most of the configuration is the stored run's: `resumed` checks what comes out
        check_fit(config)
        check_combination(config, dirs, good)
        check_steps(config, dirs)
        check_optimiser(config, dirs)
    return auto


def _check_keys_of_files(config: DictConfig, choices: Choices, catalog: Catalog, sweep: bool) -> None:
    """Refuse a key that an experiment sets and the chosen option lacks: Hydra would add it, and it would reach nothing. What is
    set of a part that was left out goes with it. Keys of sweeps reach nothing in a single run, and may be of any option."""
    known, parts = {*catalog.keys_for(choices)}, _left_out(config, catalog)
    if not sweep:
        known |= {key for g in ("sweep", "launcher") for name in catalog.options.get(g, ()) for key in catalog.keys(g, name)}
    for key in leaves(cast(dict[str, Any], OmegaConf.to_container(config))):
        if key not in known | parts and key.rpartition(".")[2] != "_target_":
            source = f"experiment={choices.get('experiment')} sets {key}"
            if key.startswith("sweep."):
                source = f"sweep={choices.get('sweep')} sets {key}"
            if key.partition(".")[0] in catalog.groups:
                raise catalog.missing_key(source, key, choices)
            raise catalog.unknown_key(source, key, "...", choices)


def _left_out(config: DictConfig, catalog: Catalog) -> set[str]:
    """Parts that another option of their group has, and the chosen one has not; they are null from here on."""
    absent: set[str] = set()
    for part in (part for group in catalog.groups for part in catalog.parts(group)):
        node = OmegaConf.select(config, part)
        if node is None or (isinstance(node, DictConfig) and "_target_" not in node):
            OmegaConf.update(config, part, None, force_add=True)
            absent.add(part)
    return absent


def _apply(setting: Setting, config: DictConfig, choices: Choices, catalog: Catalog) -> None:
    key, (group, _, name) = setting.key, setting.key.partition(".")
    known = catalog.keys(group, choices.get(group)) if group in catalog.groups else catalog.root
    part = setting.value is None and key in catalog.parts(group)
    further = group in OPEN and "." not in name and not any(_much_alike(key, other) for other in known)
    if not (key in known or part or further):
        if config.get("resume") is not None and group in catalog.groups:
            _check_free(setting, group)
        raise catalog.missing_key(setting.typed, key, choices)
    above = key.rpartition(".")[0]
    if above and OmegaConf.select(config, above) is None:
        raise UserError(f"{setting.typed}: {above} is left out")
    try:
        OmegaConf.update(config, key, setting.value, merge=False, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f"{setting.typed}: {first_line(error)}") from error


def _check_free(setting: Setting, group: str) -> None:
    """Refuse a key of a group that is the resumed run's, whose options are not those of the command line."""
    from ddpm_lab.config.resume import FREE

    if group not in FREE:
        raise UserError(
            f"{setting.typed}: a resumed run keeps its configuration: leave {setting.key} out. "
            f"May change on resume: {', '.join(FREE)}"
        )


def _much_alike(key: str, known: str) -> bool:
    """Whether a key is a misspelt one rather than another."""
    return SequenceMatcher(None, key, known).ratio() > 0.9
