"""The key=value arguments of a command line, unfolded into one list per run."""

import itertools
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override

from ddpm_lab.config.catalogue import OPEN, Catalog, Choices
from ddpm_lab.config.flags import of_hydra
from ddpm_lab.config.options import aliases, groups, options
from ddpm_lab.errors import UserError
from ddpm_lab.sweeps.plan import Span

MOST_RUNS = 1000
BASE = ("sweep=none", "sweep.arms=[]", "launcher=local")
"""Of an experiment that is a sweep, a single run."""
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra/job_logging", "hydra.job_logging")
_INSTEAD = {
    **dict.fromkeys(_FOLDERS, "runs and their logs go where run.name= or run.root= say; use one of these"),
    "hydra.mode": "add -m for a sweep",
    "hydra.searchpath": "name the folder of your own options with --config-dir=FOLDER",
    **dict.fromkeys(
        ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper"),
        "a sweep starts its own processes: write the values as in -m seed=1,2, or see --help sweep, --help launcher",
    ),
}


def canonical(argv: Sequence[str], dirs: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The arguments with our names in place of other codebases' (`schedule=scaled_linear` is quadratic here), and without the
    default experiment where other data than its own are typed, with a note for each change; with that of a head for head=."""
    words, notes, known = list(argv), [], groups(dirs)
    for i, word in enumerate(words):
        group, equals, value = word.partition("=")
        if equals and group in known and set(value.split(",")) - options(group, dirs).keys():
            ours = aliases(group, dirs)
            words[i] = f"{group}={','.join(ours.get(name, name) for name in value.split(','))}"
            notes += [f"{group}={name} is called {ours[name]} here" for name in value.split(",") if name in ours]
    keys = {word.partition("=")[0].lstrip("+~") for word in words}
    if "head" in keys and "experiment" in known and "experiment" not in keys:
        words.append("experiment=head")
        keys.add("experiment")
    data = next((word.partition("=")[2].split(",") for word in words if word.startswith("data=")), [])
    if data and "experiment" in known and not {"experiment", "resume"} & keys:
        default = Catalog.of(*dirs).chosen({})
        if others := [name for name in data if name in options("data", dirs) and name != default["data"]]:
            words.append("experiment=none")
            notes.append(f"data={others[0]} is not the data of experiment={default['experiment']}: experiment=none is taken")
    return words, notes


class Setting(NamedTuple):
    """One key with one value: as Hydra reads it, and as the argument that gives it to Hydra. It may be an end of `span`."""

    key: str
    value: object
    typed: str
    span: Span | None = None


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except Exception as error:  # the generated parser and Hydra's own functions raise many types, in many lines
        raise UserError(_unreadable(word)) from error


def lists_values(word: str) -> bool:
    """Whether it asks for several runs, as seed=1,2. Raises UserError for what is not readable."""
    return _parse(word).is_sweep_override()


def _unreadable(word: str) -> str:
    key, _, value = word.partition("=")
    text = f"{word}: not readable as key=value"
    if any(value.count(left) != value.count(right) for left, right in ("[]", "{}", "()")):
        return f"{text}: a bracket is not closed"
    if value.count("'") % 2 or value.count('"') % 2:
        return f"{text}: a quotation mark is not closed"
    try:
        OverridesParser.create().parse_override(f"{key}='{value}'")
    except Exception:  # the key itself cannot be read
        return text
    if re.fullmatch(r"\[.+\]", value):
        elements = ",".join(f"'{element.strip()}'" for element in value[1:-1].split(","))
        return f"""{text}. Text with special characters needs quotes in a list: {key}="[{elements}]\""""
    return f"""{text}. Text with special characters needs quotes: {key}="'{value}'\""""


def columns(words: Sequence[str], sweep: bool, catalog: Catalog, around: Sequence[str] = ()) -> dict[str, list[Setting]]:
    """The values of each key, in the order of the arguments. Refuses what no run could use. `around`: other arguments."""
    pairs = (word.partition("=") for word in (*around, *words))
    without = {"experiment": ""} if "~experiment" in words else {}
    choices = catalog.chosen(without | {key: value.split(",")[0] for key, _, value in pairs if key in catalog.groups})
    values: dict[str, list[Setting]] = {}
    for word in words:
        if re.fullmatch(r"[\w.-]+", word):
            raise catalog.bare_word(word, choices)
        override = _parse(word)
        key = override.key_or_group
        if override.is_hydra_override():
            raise _hydra_refusal(override)
        _check_form(override, catalog, choices)
        if override.is_sweep_override() and not sweep:
            as_list = f", or write {key}=[{override.get_value_string()}] for a list" if _is_list(key, catalog, choices) else ""
            raise UserError(f"{word} lists several values: add -m to run one after another{as_list}")
        if key in values:
            raise UserError(f"{word}: {key} is already set by {values[key][0].typed}; give it once")
        values[key] = _settings(override, catalog, choices)
        for setting in values[key]:
            _check_option(setting, catalog)
        if of_sweep(key) and len(values[key]) > 1:
            raise UserError(f"{word}: a sweep takes one value of this")
        if of_sweep(key) and not sweep and word not in BASE:
            raise UserError(f"{word}: this is about a sweep: add -m")
    return values


def _is_list(key: str, catalog: Catalog, choices: Choices) -> bool:
    known = catalog.keys_for(choices).get(key)
    return known is not None and known.default.startswith("[")


def of_sweep(key: str) -> bool:
    """Whether a key is about a sweep as a whole, and not about its runs."""
    return key.partition(".")[0] in ("sweep", "launcher")


def expand(typed: Mapping[str, list[Setting]], ready: Sequence[str], catalog: Catalog) -> list[list[Setting]]:
    """The settings of each run, in Hydra's order: of each ready line with what was typed in place of its own, or of what was
    typed alone."""
    words = [setting.typed for settings in typed.values() for setting in settings[:1]]
    lines = [columns(_words(line, catalog.dirs), True, catalog, words) for line in ready] or [{}]
    tables = [{key: values for key, values in line.items() if key not in typed} | dict(typed) for line in lines]
    if sum(math.prod(map(len, table.values())) for table in tables) > MOST_RUNS:
        raise UserError(f"this sweep has more than {MOST_RUNS} runs: take fewer values")
    runs = [settings for table in tables for settings in itertools.product(*table.values())]
    once = {frozenset(setting.typed for setting in settings): settings for settings in reversed(runs)} if ready else None
    return [list(settings) for settings in (reversed(once.values()) if once else runs)]


def _words(line: str, dirs: Sequence[Path]) -> list[str]:
    """Of a ready line, as they would be typed."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"sweep.arms: {line}: {error}") from error
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if of_sweep(key) or of_hydra(word):
            raise UserError(f"sweep.arms: {word}: this is about the sweep as a whole: type it behind -m")
    return canonical(words, dirs)[0]


def _hydra_refusal(override: Override) -> UserError:
    typed = str(override.input_line)
    for key, instead in _INSTEAD.items():
        if f"{override.key_or_group}.".startswith(f"{key}.") or key.startswith(f"{override.key_or_group}."):
            return UserError(f"{typed}: {instead}")
    return UserError(f"{typed}: Hydra's own settings have no part in a run; they can be shown by --cfg hydra")


def _check_form(override: Override, catalog: Catalog, choices: Choices) -> None:
    typed, key = str(override.input_line), override.key_or_group
    group = key.partition(".")[0]
    if override.is_delete():
        if typed == "~experiment" or (typed == f"~{key}" and key in catalog.parts(group)):
            return
        raise UserError(f"{typed}: nothing can be taken away; choose another value, {key}=...")
    if override.package is not None:
        raise UserError(f"{typed}: an option stays in its own group; write {typed.replace(f'@{override.package}', '', 1)}")
    if key not in catalog.groups and key not in catalog.root and ("." not in key or group not in catalog.groups):
        raise catalog.unknown_key(typed, key, typed.partition("=")[2], choices)
    if (override.is_add() or override.is_force_add()) and key in catalog.groups:
        raise UserError(f"{typed}: leave out the + (a group has one option)")
    if override.is_add() and group not in OPEN and (key in catalog.root or catalog.having(key)):
        raise UserError(f"{typed}: leave out the + (it adds keys, and this one is there)")
    if key.endswith("_target_"):
        raise UserError(f"{typed}: a class is chosen by its option, {group}=...; see --help")


def _settings(override: Override, catalog: Catalog, choices: Choices) -> list[Setting]:
    """The values of one argument, one by one."""
    typed, key = str(override.input_line), override.key_or_group
    if override.is_delete():
        return [Setting(key, None, typed)]
    if not override.is_sweep_override():
        return [Setting(key, override.value(), typed)]
    if not override.is_discrete_sweep():
        return _ends(override, catalog, choices)
    if getattr(override._value, "shuffle", False):
        raise UserError(f"{typed}: leave out shuffle; the order of runs changes no result")
    texts = _sweep_texts(override, catalog)
    if not texts or len(texts) > MOST_RUNS:
        raise UserError(f"{typed}: {'no value' if not texts else f'more than {MOST_RUNS} values'}")
    words = [f"{override.get_key_element()}={text}" for text in texts]
    return [Setting(key, _parse(word).value(), word) for word in words]


def _ends(override: Override, catalog: Catalog, choices: Choices) -> list[Setting]:
    """Of an interval, the two values that stand for it until a search chooses others."""
    from ddpm_lab.config.signature import schemas
    from ddpm_lab.config.values import domain_of

    typed, key, interval = str(override.input_line), override.key_or_group, override._value
    assert isinstance(interval, IntervalSweep)
    if "sweep.trials" not in catalog.keys_for(choices):
        search = "; or let a search choose: sweep=search" if "sweep" in catalog.groups else ""
        raise UserError(f"{typed}: an interval has no end of values; list them, or use range(start, stop, step){search}")
    domain = domain_of(key, catalog, choices)
    allowed = [] if domain is None else schemas(domain)
    kinds = {schema.get("type") for schema in allowed}
    if kinds not in ({"integer"}, {"number"}):
        raise UserError(f"{typed}: an interval is of numbers; list values of this")
    low, high, log = float(interval.start or 0), float(interval.end or 0), "log" in interval.tags
    if not low < high or (log and low <= 0) or interval.tags - {"log"}:
        raise UserError(f"{typed}: allowed is interval(low, high), or tag(log, interval(low, high)) with 0 < low < high")
    whole, step = kinds == {"integer"}, allowed[0].get("multipleOf", 1)
    if whole and (not low.is_integer() or (high - low) % step or (log and step > 1)):
        of_steps = f"{step} apart or a multiple of it, and it has no logarithm"
        raise UserError(f"{typed}: the ends of this interval are {'integers' if step == 1 else of_steps}")
    span = Span(low, high, whole, step, log)
    ends = [int(low), int(high)] if whole else [low, high]
    return [Setting(key, end, f"{override.get_key_element()}={end}", span) for end in ends]


def _sweep_texts(override: Override, catalog: Catalog) -> list[str]:
    glob = override._value
    if isinstance(glob, Glob):
        if override.key_or_group not in catalog.groups:
            raise UserError(f"{override.input_line}: glob chooses among the options of a group")
        # as Hydra does: not those in subfolders
        return glob.filter([name for name in catalog.options[override.key_or_group] if "/" not in name])
    try:
        return list(itertools.islice(override.sweep_string_iterator(), MOST_RUNS + 1))
    except Exception as error:  # a range with step 0, or to infinity
        raise UserError(f"{override.input_line}: not readable as a list of values") from error


def _check_option(setting: Setting, catalog: Catalog) -> None:
    """Refuse what is no option of a group."""
    group, value = setting.key, setting.value
    if group not in catalog.groups or setting.typed == "~experiment":
        return
    if isinstance(value, list | dict):
        raise UserError(f"{setting.typed}: one option at a time; -m {group}=a,b runs several one after another")
    if value is None and group == "experiment":  # Hydra takes no null for a group
        raise UserError(f"{setting.typed}: to run without an experiment type '~experiment'")
    if value is None:
        raise UserError(f"{setting.typed}: a choice is needed. Options: {', '.join(catalog.options[group])}")
    if value not in catalog.options[group]:
        raise catalog.unknown_option(group, str(value))
