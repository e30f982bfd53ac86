"""Every group, option and key a user may type, and what they most likely meant by one that does not exist."""

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ddpm_lab.config.options import defaults_list, groups, is_global, nearest, options, parents
from ddpm_lab.config.schema import Anything, Rule, parse_rules
from ddpm_lab.errors import UserError


@cache
def rules_of(path: Path) -> dict[str, Rule]:
    """The rules in a file's comments, by key as the file writes them."""
    defaults_list(path)  # says so if the file is not readable
    return parse_rules(path.read_text(encoding="utf-8"))


class Catalog:
    """What conf/ and the user's own folder offer."""

    def __init__(self, dirs: Sequence[Path]):
        self.dirs = list(dirs)
        self.groups = groups(dirs)
        self.options = {group: options(group, dirs) for group in self.groups}
        root = rules_of(dirs[0] / "config.yaml")
        self.root = {key: rule for key, rule in root.items() if not key.startswith("hydra.")}

    def rules(self, group: str, option: str | None) -> dict[str, Rule]:
        """The keys of an option, those that it takes from another one included."""
        path = self.options[group].get(option or "")
        if path is None or is_global(path):
            return {}
        rules: dict[str, Rule] = {}
        for parent in parents(group, option or "", path):
            if parent != option:
                rules |= self.rules(group, parent)
        own = {f"{group}.{key}": rule for key, rule in rules_of(path).items()}
        # a value that is written anew without a comment keeps the rule it had
        return rules | {k: rule for k, rule in own.items() if k not in rules or not isinstance(rule.kind, Anything)}

    def rules_for(self, choices: Mapping[str, str | None]) -> dict[str, Rule]:
        """The rules of all keys once an option is chosen in each group."""
        rules = dict(self.root)
        for group in self.groups:
            rules |= self.rules(group, choices.get(group))
        return rules

    def all_rules(self) -> dict[str, Rule]:
        """The rules of every key of every option."""
        rules = dict(self.root)
        for group, names in self.options.items():
            for name in names:
                rules = self.rules(group, name) | rules
        return rules

    def unknown_key(self, typed: str, key: str, value: str) -> UserError:
        """The answer to `shedule=cosine` or `+learnin_rate=1`."""
        meant = self._meant(key, value)
        places = ", ".join([*self.groups, *self.root])
        return UserError(f"{typed}: no such key.{_question(meant)} Groups and keys: {places}")

    def unknown_option(self, group: str, value: str, source: str = "") -> UserError:
        """The answer to `schedule=cosin`."""
        names = self.options.get(group, {})
        if (self.dirs[0] / "evaluate" / group / f"{value}.yaml").is_file():
            return UserError(
                f"{source}{group}={value}: at evaluation only, as in python evaluate.py ckpt=RUN {group}={value}. "
                f"Options: {', '.join(names)}"
            )
        close = nearest(value, names)
        meant = _question([f"{group}={close}"] if close else [])
        return UserError(f"{source}{group}={value}: no such option.{meant} Options: {', '.join(names)}")

    def missing_key(self, typed: str, key: str, choices: Mapping[str, str | None]) -> UserError:
        """The answer to a key that the chosen option of its group lacks; `typed` is what brought it up."""
        group, _, name = key.partition(".")
        if not name:
            return UserError(f"{typed}: a file chooses an option in its defaults list: - override /{group}: OPTION")
        here = sorted(known.removeprefix(f"{group}.") for known in self.rules(group, choices.get(group)))
        if inside := [f"{group}.{known}" for known in here if known.startswith(f"{name}.")]:
            return UserError(f"{typed}: {key} is no single value; set one of {', '.join(inside)}")
        others = [f"{group}={option}" for option in self.options[group] if key in self.rules(group, option)]
        close = _by_last_part(name, here) or [match for match in [nearest(name, here)] if match]
        listed = f"it has {', '.join(here)}" if here else "it has none"
        text = f"{typed}: {group}={choices.get(group)} has no such key; {listed}."
        if others:
            return UserError(f"{text} {' and '.join(others)} {'has' if len(others) == 1 else 'have'} it")
        return UserError(text + _question([f"{group}.{known}" for known in close]))

    def bare_word(self, word: str) -> UserError:
        """The answer to `cosine`, `sampler` or `lr`, half of a key=value."""
        rules = self.all_rules()
        meant = [f"{group}={word}" for group, names in self.options.items() if word in names]
        if not meant and word not in rules and (group := nearest(word, self.groups)):
            meant = [f"{group}={option}" for option in self.options[group]]
        meant = meant or [f"{key}=..." for key in ([word] if word in rules else _by_last_part(word, rules))]
        return UserError(f"{word}: not readable as key=value.{_question(meant)} See also --help")

    def _meant(self, word: str, value: str) -> list[str]:
        rules = self.all_rules()
        if same := _by_last_part(word, rules):
            return [f"{key}={value}" for key in same]
        if group := nearest(word, self.groups):
            return [f"{group}={nearest(value, self.options[group]) or value}"]
        scores = {key: _likeness(word, key, rule.meaning) for key, rule in rules.items()}
        best = max(scores, key=lambda key: scores[key])
        return [f"{best}={value} ({rules[best].meaning})"] if scores[best] > 0.7 else []


def _by_last_part(word: str, keys: Mapping[str, Rule] | Sequence[str]) -> list[str]:
    """`lr` for `optim.lr`."""
    return [key for key in keys if key.rpartition(".")[2] == word.rpartition(".")[2]]


def _likeness(word: str, key: str, meaning: str) -> float:
    """How likely `word` stands for `key`, from 0 to 1: by spelling, or by the words that explain the key."""

    def spelled(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a.casefold(), b.casefold()).ratio()

    wanted = [part for part in re.split(r"[\W_]+", word.casefold()) if len(part) > 2]
    told = re.findall(r"[\w-]+", meaning.casefold())
    explained = bool(wanted) and all(difflib.get_close_matches(part, told, 1, 0.8) for part in wanted)
    by_meaning = 0.6 + 0.4 * len(wanted) / len(told) if explained else 0.0
    return max(spelled(word, key), 0.95 * spelled(word, key.rpartition(".")[2]), by_meaning)


def _question(meant: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(meant)}?" if meant else ""
