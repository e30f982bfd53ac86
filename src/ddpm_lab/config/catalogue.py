"""Every group, option and key a user may type, from the yaml files alone, and what they most likely meant by one that does not
exist."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from ddpm_lab.config.options import (
    choices_made,
    content,
    groups,
    is_global,
    lineage,
    nearest,
    options,
    read_mapping,
)
from ddpm_lab.errors import UserError
from ddpm_lab.files import Loader

OPEN = ("trainer",)
"""Groups whose option passes further keys on: which ones, its signature says."""
Choices = Mapping[str, str | None]


class Key(NamedTuple):
    """A key of a file: its value as written, and the comment behind it."""

    default: str
    meaning: str


def parse_keys(text: str) -> dict[str, Key]:
    """Every leaf of a yaml text by its dotted key; `defaults` and `_target_` are none."""
    keys: dict[str, Key] = {}
    lines = text.split("\n")

    def leaf(key: str, key_node: yaml.Node, node: yaml.Node) -> None:
        start, end = node.start_mark, node.end_mark
        written = lines[start.line][start.column : end.column] if start.line == end.line else ""
        if isinstance(node, yaml.SequenceNode) and not node.flow_style:  # one element a line, under the comment
            flow = yaml.SequenceNode(node.tag, node.value, flow_style=True)
            end, written = key_node.end_mark, yaml.serialize(flow, width=10**6, allow_unicode=True).strip()
        comment = lines[end.line][end.column :] if end.line < len(lines) else ""
        keys[key] = Key(written, comment.partition("#")[2].strip())

    def walk(node: yaml.MappingNode, prefix: str) -> None:
        for key_node, value in node.value:
            key = key_node.value
            if isinstance(value, yaml.MappingNode) and value.value:
                walk(value, f"{prefix}{key}.")
            elif key != "_target_" and (prefix or key != "defaults"):
                leaf(f"{prefix}{key}", key_node, value)

    root = yaml.compose(text, Loader)
    if isinstance(root, yaml.MappingNode):
        walk(root, "")
    return keys


@cache
def keys_of(path: Path) -> dict[str, Key]:
    """The keys of a file, as the file writes them."""
    read_mapping(path)  # raises UserError if the file is not readable
    return parse_keys(path.read_text(encoding="utf-8"))


class Catalog:
    """What conf/ and the user's own folder offer."""

    def __init__(self, dirs: Sequence[Path]):
        self.dirs = list(dirs)
        self.command = self.dirs[0].name if self.dirs[0].name in ("evaluate", "sample", "figures") else "train"
        self.groups = groups(dirs)
        self.options = {group: options(group, dirs) for group in self.groups}
        root = keys_of(dirs[0] / "config.yaml")
        self.root = {key: value for key, value in root.items() if not key.startswith("hydra.")}
        self._keys: dict[tuple[str, str | None], dict[str, Key]] = {}
        self._parts: dict[str, set[str]] = {}

    @staticmethod
    @cache
    def of(*dirs: Path) -> "Catalog":
        """That of these folders, read once."""
        return Catalog(dirs)

    def keys(self, group: str, option: str | None) -> dict[str, Key]:
        """The keys of an option, those that it takes from another one included. A value that is written anew without a comment
        keeps the meaning it had."""
        if (group, option) not in self._keys:
            known: dict[str, Key] = {}
            if option in self.options[group] and not is_global(self.options[group][option]):
                for path in lineage(group, option, self.dirs):
                    for name, key in keys_of(path).items():
                        before = known.get(f"{group}.{name}", key)
                        known[f"{group}.{name}"] = Key(key.default, key.meaning or before.meaning)
            self._keys[group, option] = known
        return self._keys[group, option]

    def keys_for(self, choices: Choices) -> dict[str, Key]:
        """All keys, once an option is chosen in each group."""
        return self.root | {key: known for group in self.groups for key, known in self.keys(group, choices.get(group)).items()}

    def parts(self, group: str) -> set[str]:
        """Of a group whose options hold several things to build, their keys, as callbacks.samples. Each can be left out."""
        if group not in self._parts:
            named = [name for name, path in self.options.get(group, {}).items() if not is_global(path)]
            several = [held for held in (content(group, name, self.dirs) for name in named) if "_target_" not in held]
            built = any(isinstance(part, dict) and "_target_" in part for held in several for part in held.values())
            self._parts[group] = {f"{group}.{key}" for held in several for key in held} if built else set()
        return self._parts[group]

    def chosen(self, typed: Mapping[str, str]) -> dict[str, str | None]:
        """The option of each group, from the files alone: `typed` wins over the experiment, which wins over the defaults."""
        experiment = typed.get("experiment", self.groups.get("experiment"))
        choices = dict(self.groups)
        if experiment in self.options.get("experiment", {}):
            for path in lineage("experiment", str(experiment), self.dirs):
                choices |= choices_made(path)
        return {group: typed.get(group, choices[group]) for group in self.groups}

    def check_files(self, choices: Choices) -> None:
        """Raises UserError for a chosen option whose files cannot be read, lead back to themselves, or hold nothing."""
        for group, option in choices.items():
            if option not in self.options.get(group, ()):
                continue
            paths = lineage(group, str(option), self.dirs)
            if not is_global(paths[-1]) and not any(map(read_mapping, paths)):
                raise UserError(f"{group}={option}: {paths[-1]} has no keys")

    def having(self, key: str) -> list[str]:
        """The options that have a key, as typed."""
        group = key.partition(".")[0]
        return [f"{group}={name}" for name in self.options.get(group, ()) if key in self.keys(group, name)]

    def unknown_key(self, typed: str, key: str, value: str, choices: Choices) -> UserError:
        """The answer to `shedule=cosine` or `+learnin_rate=1`."""
        chosen = self.keys_for(choices)
        same, elsewhere = _by_last_part(key, chosen), _by_last_part(key, self._all_keys())
        nearer = bool(same and elsewhere) and elsewhere[0].count(".") < same[0].count(".")
        if nearer:  # callbacks.frechet_curve.eta is less likely than sampler.eta
            same = []
        elsewhere = [] if same else elsewhere
        belongs = "".join(f" {other} belongs to {', '.join(self.having(other))}." for other in elsewhere)
        meant = [f"{known}={value}" for known in same] or ([] if elsewhere else self._alike(key, value, chosen))
        places = ", ".join([*self.groups, *self.root])
        return UserError(f"{typed}: no such key.{_question(meant)}{belongs} Groups and keys: {places}")

    def unknown_option(self, group: str, value: str, source: str = "") -> UserError:
        """The answer to `schedule=cosin`."""
        names = self.options.get(group, {})
        listed = f"Options: {', '.join(names)}"
        if (self.dirs[0] / "evaluate" / group / f"{value}.yaml").is_file():
            typed = f"{group}={value}"
            return UserError(f"{source}{typed}: at evaluation only, as in python evaluate.py ckpt=RUN {typed}. {listed}")
        close = nearest(value, names)
        others = [f"{other}={value}" for other in self.groups if value in self.options[other]]
        meant = _question([f"{group}={close}"] if close else others)
        return UserError(f"{source}{group}={value}: no such option.{meant} {listed}")

    def missing_key(self, typed: str, key: str, choices: Choices) -> UserError:
        """The answer to a key that the chosen option of its group lacks; `typed` is what brought it up."""
        group, _, name = key.partition(".")
        if not name:
            return UserError(f"{typed}: a file chooses an option in its defaults list: - override /{group}: OPTION")
        here = sorted(known.removeprefix(f"{group}.") for known in self.keys(group, choices.get(group)))
        if inside := [f"{group}.{known}" for known in here if known.startswith(f"{name}.")]:
            return UserError(f"{typed}: {key} is no single value; set one of {', '.join(inside)}")
        text = f"{typed}: {group}={choices.get(group)} has no such key; it has {', '.join(here) or 'none'}."
        if others := self.having(key):
            return UserError(f"{text} {key} belongs to {', '.join(others)}")
        close = _by_last_part(name, here) or [match for match in [nearest(name, here)] if match]
        return UserError(text + _question([f"{group}.{known}" for known in close]))

    def bare_word(self, word: str, choices: Choices) -> UserError:
        """The answer to `cosine`, `sampler` or `lr`, half of a key=value."""
        keys = self.keys_for(choices)
        meant = [f"{group}={word}" for group, names in self.options.items() if word in names]
        if not meant and word not in keys and (group := nearest(word, self.groups)):
            meant = [f"{group}={option}" for option in self.options[group]]
        meant = meant or [f"{key}=..." for key in ([word] if word in keys else _by_last_part(word, keys))]
        return UserError(f"{word}: not readable as key=value.{_question(meant)} See also --help")

    def _all_keys(self) -> list[str]:
        return [key for group, names in self.options.items() for name in names for key in self.keys(group, name)]

    def _alike(self, word: str, value: str, keys: Mapping[str, Key]) -> list[str]:
        if group := nearest(word, self.groups):
            return [f"{group}={nearest(value, self.options[group]) or value}"]
        if named := [f"{group}={value}" for group, names in self.options.items() if value in names]:
            return named
        scores = {key: _likeness(word, key, known.meaning) for key, known in keys.items()}
        best = max(scores, key=lambda key: scores[key])
        return [f"{best}={value} ({keys[best].meaning})"] if scores[best] > 0.7 else []


def _by_last_part(word: str, keys: Iterable[str]) -> list[str]:
    """`lr` for `optim.lr`: the keys of the fewest parts that end so."""
    same = [key for key in dict.fromkeys(keys) if key.rpartition(".")[2] == word.rpartition(".")[2]]
    return [key for key in same if key.count(".") == min(other.count(".") for other in same)]


def _likeness(word: str, key: str, meaning: str) -> float:
    """How likely `word` stands for `key`, from 0 to 1: by spelling, or by the words that explain the key."""

    def spelled(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a.casefold(), b.casefold()).ratio()

    wanted = [part for part in re.split(r"[\W_]+", word.casefold()) if len(part) > 2]
    words = re.findall(r"[\w-]+", meaning.casefold())
    explained = bool(wanted) and all(difflib.get_close_matches(part, words, 1, 0.8) for part in wanted)
    by_meaning = 0.6 + 0.4 * len(wanted) / len(words) if explained else 0.0
    return max(spelled(word, key), 0.95 * spelled(word, key.rpartition(".")[2]), by_meaning)


def _question(meant: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(meant)}?" if meant else ""
