"""The signature of what an option builds is the schema of the option's keys: which there are, and what each may hold."""

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from functools import cache, reduce
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError, TypeAdapter

from ddpm_lab.config.options import nearest
from ddpm_lab.domains import accepts, allowed, is_plain, shown
from ddpm_lab.errors import UserError

MISSING = "???"
UNTYPED = "it has no annotation"


class Parameter(NamedTuple):
    """`domain`: None where a yaml file cannot give the argument, for the reason `why`."""

    domain: Any
    default: Any
    why: str = ""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


class Node(NamedTuple):
    """What to call, and with which values."""

    target: Callable[..., Any]
    values: dict[str, Any]


Explain = Callable[[str], tuple[str | None, str]]
"""Of a key, its value as the user typed it (None: not typed), and its meaning."""


def unexplained(key: str) -> tuple[str | None, str]:
    return None, ""


@cache
def parameters(target: Callable[..., Any]) -> Mapping[str, Parameter]:
    """By name. Raises UserError for a signature that cannot be read, or a default outside its own domain."""
    name = f"{target.__module__}.{getattr(target, '__qualname__', target)}"
    try:
        known = inspect.signature(target).parameters
        hints = get_type_hints(_function(target), include_extras=True)
    except Exception as error:  # an annotation may be any expression
        raise UserError(f"{name}: its signature cannot be read ({type(error).__name__}: {error})") from error
    made = {f.name: f.default_factory() for f in _fields(target) if f.default_factory is not dataclasses.MISSING}
    keywords = [
        p.replace(default=made.get(p.name, p.default), annotation=hints.get(p.name, p.empty))
        for p in known.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    return {p.name: _parameter(p, name) for p in keywords} | _further(target)


def _fields(target: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(target) if dataclasses.is_dataclass(target) else ()


def _function(target: Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(target, type):
        return inspect.unwrap(target)
    made_by = target.__init__ if target.__init__ is not object.__init__ else target.__new__
    return inspect.unwrap(made_by) if made_by is not object.__new__ else lambda: None


def _further(target: Callable[..., Any]) -> dict[str, Parameter]:
    """Of a function with `**more`, which states what it hands on (`passed`) and to what (`further`)."""
    passed = getattr(target, "passed", ())
    known = parameters(getattr(target, "further")) if passed else {}  # noqa: B009
    return {name: known[name] for name in passed}


def _parameter(parameter: inspect.Parameter, target: str) -> Parameter:
    hint = parameter.annotation
    if hint is inspect.Parameter.empty:
        return Parameter(None, parameter.default, UNTYPED)
    domain = plain_part(hint)
    if domain is None:
        return Parameter(None, parameter.default, f"a yaml file cannot hold its type, {_named(hint)}")
    try:
        good = parameter.default is inspect.Parameter.empty or accepts(domain, parameter.default)
        words = allowed(domain)
    except Exception as error:  # bounds of another type than what they bound
        return Parameter(None, parameter.default, f"its annotation {_named(hint)} is no domain ({type(error).__name__})")
    if not good:
        raise UserError(f"{target}: the default {parameter.name}={shown(parameter.default)} is outside its domain, {words}")
    return Parameter(domain, parameter.default)


def plain_part(hint: Any) -> Any:
    """What of a type a yaml file can hold: `float` of `float | Tensor`. None for nothing of it, but null."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in map(plain_part, get_args(hint)) if part is not None]
        return reduce(lambda a, b: a | b, parts) if set(parts) - {types.NoneType} else None
    inner = () if get_origin(hint) in (Annotated, Literal) else get_args(hint)
    return hint if is_plain(hint) and all(plain_part(part) for part in inner if part is not ...) else None


def _named(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)


def given(target: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Of what Python offers, what the signature takes."""
    taken = inspect.signature(target).parameters
    return {name: value for name, value in offered.items() if name in taken}


def inspected(key: str, target: Callable[..., Any], values: Mapping[str, Any], explain: Explain = unexplained) -> Node:
    """The call that a node stands for. Raises UserError where a key reaches no parameter, a value lies outside its domain, or
    an argument is missing."""
    known = parameters(target)
    place = f"{key}." if key else ""
    for name, value in values.items():
        if name not in known:
            keys = [other for other, parameter in known.items() if parameter.domain is not None]
            close = nearest(name, keys)
            question = f" Did you mean {place}{close}?" if close else ""
            typed = explain(f"{place}{name}")[0]
            raise UserError(
                f"{place}{name}={shown(value) if typed is None else typed}: {_named(target)} has no such parameter.{question} "
                f"It has {', '.join(keys) or 'none'}"
            )
        if known[name].domain is None:
            raise UserError(f"{place}{name}: cannot be set: of the parameter {name} of {_named(target)}, {known[name].why}")
        check_value(f"{place}{name}", value, known[name].domain, explain)
    for name, parameter in known.items():
        given_by_python = parameter.domain is None and parameter.why != UNTYPED
        if parameter.required and name not in values and not given_by_python:
            raise UserError(f"{key}: {_named(target)} needs {name}, and this option has no such key")
    return Node(target, dict(values))


def check_value(key: str, value: object, domain: Any, explain: Explain = unexplained) -> None:
    """Raises UserError that names key, value, domain and meaning, and what to type where that can be guessed."""
    typed, meaning = explain(key)
    if value == MISSING:
        raise UserError(f"{key} is needed: {allowed(domain)}{f': {meaning}' if meaning else ''}; type {key}=...")
    if accepts(domain, value):
        return
    message = f"{key}={shown(value) if typed is None else typed}: allowed is {allowed(domain)}"
    hint = _hint(key, value, domain)
    raise UserError(f"{message}{f' ({meaning})' if meaning else ''}{f'; {hint}' if hint else ''}")


def _hint(key: str, value: Any, domain: Any) -> str:
    if isinstance(value, float) and value.is_integer() and accepts(domain, int(value)):
        return f"write {key}={int(value)}"
    if not isinstance(value, list | dict) and value is not None and accepts(domain, [value]):
        element = f"'{value}'" if isinstance(value, str) and not value.isalnum() else shown(value)
        return f"a list is written {key}=[{element}]"
    if isinstance(value, int | float) and not isinstance(value, bool) and accepts(domain, str(value)):
        return f"""in quotes it is text: {key}="'{value}'\""""
    texts = [text for schema in schemas(domain) for text in schema.get("enum", [schema.get("const")]) if isinstance(text, str)]
    if (close := nearest(shown(value), texts)) is not None:
        return f"did you mean {key}={close}?"
    return ""


def schemas(domain: Any) -> list[dict[str, Any]]:
    """Of each alternative of a domain, null apart, its JSON schema: `type`, `enum` of texts, `multipleOf`. Empty for a domain
    with a type inside that JSON has not, as the tensors of `tuple[float | Tensor, ...]`."""
    try:
        schema = TypeAdapter(domain).json_schema()
    except PydanticUserError:
        return []
    return [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
