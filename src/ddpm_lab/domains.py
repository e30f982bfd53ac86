"""Domains of arguments: types with bounds, each written once, in the signature that takes the argument.

    @checked
    def cosine(T: Size = 1000, offset: NonNegativeFloat = 0.008) -> NoiseSchedule: ...

`checked` refuses a value outside its domain, for Python callers and the command line alike. `allowed` describes a domain.
Plain `float`, `int`, `bool` and `str` are domains too; floats are finite.
"""

import functools
import inspect
import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf, Predicate
from pydantic import ConfigDict, TypeAdapter, ValidationError

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
Size = Annotated[int, Ge(1), Le(10**6)]
"""Of what is held in memory: a batch, or the steps of a schedule."""
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
OpenUnit = Annotated[float, Gt(0), Lt(1)]
"""(0, 1)."""
ClosedUnit = Annotated[float, Ge(0), Le(1)]
"""[0, 1]."""
HalfOpenUnit = Annotated[float, Ge(0), Lt(1)]
"""[0, 1)."""
Text = Annotated[str, MinLen(1)]


@dataclass(frozen=True)
class Named(Predicate):
    """A predicate with words for what it allows."""

    words: str = ""


def is_file(path: str) -> bool:
    """Whether a file is there; ~ is the home folder."""
    return os.path.isfile(os.path.expanduser(path))


def is_folder_name(name: str) -> bool:
    """Whether one folder can be called so, and is not hidden."""
    printable = name.isprintable() and not set(name) & set("/\\")
    return printable and name != "" and name[0] != "." and len(name.encode()) <= 255


def is_folder_path(path: str) -> bool:
    """One or more names of folders with / between."""
    return all(map(is_folder_name, path.split("/")))


File = Annotated[str, Named(is_file, "file that exists")]
FolderName = Annotated[str, Named(is_folder_name, "folder name without / and without a dot in front")]
FolderPath = Annotated[str, Named(is_folder_path, "folder names with / between, none with a dot in front")]


class Python:
    """Marks a parameter that Python code provides, whatever its type: see `Given`."""


Value = TypeVar("Value")
Given = Annotated[Value, Python]
"""`in_channels: Given[int]`: provided by Python and not by a yaml file, so that it is not part of an option's schema."""

PLAIN = (bool, int, float, str, list, tuple, dict, Literal, types.NoneType)
"""Types of values in yaml files. Parameters of other types are provided by Python, and are not checked here."""
Choice = TypeVar("Choice", bound=Callable[..., Any])


class Incompatible(ValueError):
    """Parts that are valid alone and do not go together. `arguments` names the parts: "loss", "variance"."""

    def __init__(self, message: str, *arguments: str) -> None:
        super().__init__(message)
        self.arguments = arguments


def checked(choice: Choice) -> Choice:
    """Decorates a function, or a class by its `__init__`: an argument outside the domain in the signature raises ValueError
    with the argument's name, its value, and what is allowed."""
    if isinstance(choice, type):
        choice.__init__ = checked(choice.__init__)  # type: ignore[misc]
        return choice  # type: ignore[return-value]

    signature, domains = inspect.signature(choice), None

    @functools.wraps(choice)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal domains
        domains = domains_of(choice) if domains is None else domains
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in domains:
                check(name, value, domains[name])
        return choice(*args, **kwargs)

    return call  # type: ignore[return-value]


def domains_of(choice: Callable[..., Any]) -> dict[str, Any]:
    """The domain of each parameter that a yaml file can set, by name."""
    function = choice.__init__ if isinstance(choice, type) else choice
    function = inspect.unwrap(function)
    hints = get_type_hints(function, include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "return" and is_plain(hint)}


def is_plain(hint: Any) -> bool:
    """Whether a yaml file can hold a value of this type."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(map(is_plain, get_args(hint)))
    origin = get_origin(hint)
    if origin is Annotated:
        return Python not in get_args(hint) and is_plain(get_args(hint)[0])
    return (origin or hint) in PLAIN


def check(name: str, value: object, domain: Any) -> None:
    """Raises ValueError where the value lies outside the domain of the argument `name`."""
    if not accepts(domain, value):
        raise ValueError(f"{name}={shown(value)}: allowed is {allowed(domain)}")


def accepts(domain: Any, value: object) -> bool:
    """Whether the value lies in the domain. A bool is not a number, 2.0 is not an integer, text is not a number; nan, infinity
    and integers of more than 64 bits are refused. Lists are accepted for tuples, as yaml has no tuples."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    if get_origin(domain) in (Union, types.UnionType):
        return any(accepts(argument, value) for argument in get_args(domain))
    if get_origin(domain) is Literal:  # pydantic compares by ==, and True == 1 == 1.0
        return any(type(value) is type(word) and value == word for word in get_args(domain))
    return _valid(domain, value) or (isinstance(value, list) and _valid(domain, tuple(value)))


def _valid(domain: Any, value: object) -> bool:
    try:
        _adapter(domain).validate_python(value)
    except ValidationError:
        return False
    return True


@functools.cache
def _adapter(domain: Any) -> TypeAdapter[Any]:
    return TypeAdapter(domain, config=ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True))


_SIGNS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}


def allowed(domain: Any) -> str:
    """The domain in words: "int >= 1", "float in (0, 1)", "one of a, b", "list of int", "file that exists", "... or null"."""
    origin, arguments = get_origin(domain), get_args(domain)
    if origin in (Union, types.UnionType):
        return " or ".join(map(allowed, arguments))
    if domain is types.NoneType:
        return "null"
    if origin is Literal:
        return f"one of {', '.join(map(shown, arguments))}"
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:])
    if origin in (list, tuple):
        items = [argument for argument in arguments if argument is not Ellipsis]
        length = f"{len(items)} " if origin is tuple and Ellipsis not in arguments else ""
        return f"list of {length}{allowed(items[0])}"
    return getattr(domain, "__name__", str(domain))


def _bounded(base: Any, bounds: tuple[Any, ...]) -> str:
    if words := next((bound.words for bound in bounds if isinstance(bound, Named)), ""):
        return words
    words, kinds = allowed(base), {type(bound): bound for bound in bounds}
    lower = next(((kind, getattr(kinds[kind], _SIGNS[kind][1])) for kind in (Ge, Gt) if kind in kinds), None)
    upper = next(((kind, getattr(kinds[kind], _SIGNS[kind][1])) for kind in (Le, Lt) if kind in kinds), None)
    if lower and upper:
        left, right = "[" if lower[0] is Ge else "(", "]" if upper[0] is Le else ")"
        words += f" in {left}{lower[1]}, {upper[1]}{right}"
    elif bound := lower or upper:
        words += f" {_SIGNS[bound[0]][0]} {bound[1]}"
    if MultipleOf in kinds:
        words += f", a multiple of {kinds[MultipleOf].multiple_of}"
    return f"{words}, not empty" if MinLen in kinds else words


def shown(value: object) -> str:
    """The value as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}:{shown(inner)}' for key, inner in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
