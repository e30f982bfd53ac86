"""What each key of a yaml file may hold, read from the comment behind it: `lr: 0.1  # float > 0: learning rate`."""

import math
import os
import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import yaml

from ddpm_lab.config.options import nearest
from ddpm_lab.errors import UserError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MISSING = "???"


class Kind(Protocol):
    """A type of value."""

    def accepts(self, value: object) -> bool: ...

    def hint(self, key: str, value: object) -> str:
        """What to type instead of a refused value, where that can be guessed; else empty."""
        ...


@dataclass(frozen=True)
class Interval:
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, x: float) -> bool:
        above = x > self.low if self.low_open else x >= self.low
        below = x < self.high if self.high_open else x <= self.high
        return above and below


class Anything:
    """A key whose comment is no rule, as in a user's own yaml."""

    def accepts(self, value: object) -> bool:
        return True

    def hint(self, key: str, value: object) -> str:
        return ""


class Bool(Anything):
    def accepts(self, value: object) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Float(Anything):
    interval: Interval

    def accepts(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):  # to Python, true is an int
            return False
        return (isinstance(value, int) or math.isfinite(value)) and value in self.interval


class Int(Float):
    def accepts(self, value: object) -> bool:
        return isinstance(value, int) and super().accepts(value)

    def hint(self, key: str, value: object) -> str:
        if not isinstance(value, float) or not value.is_integer() or not self.accepts(int(value)):
            return ""
        return f"write {key}={int(value)}"


class EvenInt(Int):
    def accepts(self, value: object) -> bool:
        return super().accepts(value) and value % 2 == 0  # pyright: ignore[reportOperatorIssue]


class Text(Anything):
    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and value != ""

    def hint(self, key: str, value: object) -> str:
        if value == "":
            return "it may not be empty"
        return f"""in quotes it is text: {key}="'{show(value)}'\"""" if isinstance(value, int | float) else ""


class File(Anything):
    def accepts(self, value: object) -> bool:
        return isinstance(value, str) and os.path.isfile(os.path.expanduser(value))

    def hint(self, key: str, value: object) -> str:
        return "there is no such file"


@dataclass(frozen=True)
class OneOf(Anything):
    choices: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        return value in self.choices

    def hint(self, key: str, value: object) -> str:
        close = nearest(show(value), self.choices)
        return f"did you mean {key}={close}?" if close else ""


@dataclass(frozen=True)
class ListOf(Anything):
    element: Kind
    may_be_empty: bool

    def accepts(self, value: object) -> bool:
        return isinstance(value, list) and (self.may_be_empty or value != []) and all(map(self.element.accepts, value))

    def hint(self, key: str, value: object) -> str:
        if value == []:
            return "it may not be empty"
        return f"a list is written {key}=[{show(value)}]" if self.element.accepts(value) else ""


class Rule(NamedTuple):
    """One key: what it may hold, in the words of its comment, and the value that its file gives it."""

    allowed: str
    meaning: str
    kind: Kind
    nullable: bool = False
    default: str = ""

    def accepts(self, value: object) -> bool:
        return self.nullable if value is None else self.kind.accepts(value)

    def check(self, key: str, value: object, typed: str | None = None) -> None:
        """Refuse a value that the comment does not allow; `typed` is the value as the user wrote it."""
        if self.accepts(value):
            return
        hint = self.kind.hint(key, value)
        shown = show(value) if typed is None else typed
        message = f"{key}={shown}: allowed is {self.allowed} ({self.meaning})"
        raise UserError(f"{message}; {hint}" if hint else message)


def show(value: object) -> str:
    """A value as one types it."""
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE]-?\d+)?"
_BOUNDS = re.compile(rf"(>=?) ({_NUMBER})|in ([\[(])({_NUMBER}), ({_NUMBER})([\])])")
_NUMBERS = {"int": Int, "even int": EvenInt, "float": Float}
_NUMERIC = re.compile(rf"({'|'.join(_NUMBERS)})(?: (.+))?")
_PLAIN: dict[str, Kind] = {"bool": Bool(), "str": Text(), "file": File()}


def interval(bounds: str) -> Interval:
    """`>= 1`, `> 0`, `in [0, 1)`: as mathematics writes them."""
    match = _BOUNDS.fullmatch(bounds)
    if match is None:
        raise ValueError(f"not an interval: {bounds!r}")
    sign, limit, left, low, high, right = match.groups()
    if sign:
        return Interval(low=float(limit), low_open=sign == ">")
    return Interval(float(low), float(high), low_open=left == "(", high_open=right == ")")


def _kind(text: str) -> Kind:
    if text in _PLAIN:
        return _PLAIN[text]
    if text.startswith("one of "):
        return OneOf(tuple(text.removeprefix("one of ").split(", ")))
    if text.startswith("list of "):
        return ListOf(_kind(text.removeprefix("list of ").removesuffix(" or empty")), text.endswith(" or empty"))
    match = _NUMERIC.fullmatch(text)
    if match is None:
        raise ValueError(f"not a type: {text!r}")
    return _NUMBERS[match[1]](interval(match[2]) if match[2] else Interval())


def parse_rule(comment: str, default: str = "") -> Rule:
    """`# TYPE[ CONSTRAINT][ or null]: meaning`."""
    allowed, colon, meaning = comment.strip().removeprefix("#").strip().partition(": ")
    if not colon:
        raise ValueError(f"not a rule: {comment!r}")
    kind = _kind(allowed.removesuffix(" or null"))
    return Rule(allowed, meaning, kind, allowed.endswith(" or null"), default)


def _flow(node: yaml.SequenceNode) -> yaml.SequenceNode:
    return yaml.SequenceNode(node.tag, node.value, flow_style=True)


def parse_rules(text: str) -> dict[str, Rule]:
    """The rule of every leaf of a yaml text by its dotted key; `defaults` and `_target_` hold none."""
    rules: dict[str, Rule] = {}
    lines = text.split("\n")

    def leaf(key: str, key_node: yaml.Node, node: yaml.Node) -> None:
        start, end = node.start_mark, node.end_mark
        written = lines[start.line][start.column : end.column] if start.line == end.line else ""
        if isinstance(node, yaml.SequenceNode) and not node.flow_style:  # one element a line, under the comment
            end, written = key_node.end_mark, yaml.serialize(_flow(node), width=10**6, allow_unicode=True).strip()
        comment = lines[end.line][end.column :].lstrip(": ") if end.line < len(lines) else ""
        try:
            rules[key] = parse_rule(comment, written)
        except ValueError:
            rules[key] = Rule("anything", comment.lstrip("# "), Anything(), True, written)

    def walk(node: yaml.MappingNode, prefix: str) -> None:
        for key_node, value in node.value:
            key = key_node.value
            if isinstance(value, yaml.MappingNode) and value.value:
                walk(value, f"{prefix}{key}.")
            elif key != "_target_" and (prefix or key != "defaults"):
                leaf(f"{prefix}{key}", key_node, value)

    root = yaml.compose(text, _Loader)
    if isinstance(root, yaml.MappingNode):
        walk(root, "")
    return rules
