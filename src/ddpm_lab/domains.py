"""Domains of arguments. Each stands once, in the signature that takes the argument, and holds for Python callers and for the
command line alike: `checked` refuses a value outside its domain, `allowed` says the domain in words.

    @checked
    def cosine(T: PositiveInt = 1000, offset: NonNegativeFloat = 0.008) -> NoiseSchedule: ...
"""

import functools
import inspect
import math
import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf, Predicate
from pydantic import ConfigDict, TypeAdapter, ValidationError

Finite = Predicate(math.isfinite)
Float = Annotated[float, Finite]
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Finite, Gt(0)]
NonNegativeFloat = Annotated[float, Finite, Ge(0)]
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

PLAIN = (bool, int, float, str, list, tuple, dict, Literal, types.NoneType)
"""What a yaml file can hold: parameters of other types are given by Python, and are not checked here."""
Choice = TypeVar("Choice", bound=Callable[..., Any])


def checked(choice: Choice) -> Choice:
    """A function, or a class by its `__init__`, that refuses arguments outside the domains of its signature with a ValueError
    which names the argument, what came, and what is allowed."""
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
    """The domain of each parameter that a yaml file can give, by name."""
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
        return is_plain(get_args(hint)[0])
    return (origin or hint) in PLAIN


def check(name: str, value: object, domain: Any) -> None:
    """Raises ValueError that names the argument where the value lies outside its domain."""
    if not accepts(domain, value):
        raise ValueError(f"{name}={shown(value)}: allowed is {allowed(domain)}")


def accepts(domain: Any, value: object) -> bool:
    """Whether the value lies in the domain. A bool is no number, 2.0 is no integer, and text is no number; a list will do for a
    tuple, as yaml has no tuples."""
    if isinstance(value, list) and get_origin(domain) is tuple:
        value = tuple(value)
    try:
        _adapter(domain).validate_python(value)
    except ValidationError:
        return False
    return True


@functools.cache
def _adapter(domain: Any) -> TypeAdapter[Any]:
    return TypeAdapter(domain, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


_SIGNS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}


def allowed(domain: Any) -> str:
    """The domain in words: "int >= 1", "float in (0, 1)", "one of a, b", "list of int >= 1", "… or null"."""
    origin, arguments = get_origin(domain), get_args(domain)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if argument is types.NoneType else allowed(argument) for argument in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(shown, arguments))}"
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:])
    if origin in (list, tuple):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        same = len(set(inner)) == 1
        return (
            f"list of {allowed(inner[0])}"
            if origin is list or ... in arguments or not same
            else (f"list of {len(inner)} {allowed(inner[0])}")
        )
    return getattr(domain, "__name__", str(domain))


def _bounded(base: Any, bounds: tuple[Any, ...]) -> str:
    kinds = {type(bound): bound for bound in bounds}
    words = next((bound.words for bound in bounds if isinstance(bound, Named)), None) or allowed(base)
    if MultipleOf in kinds:
        words = f"{words}, a multiple of {kinds[MultipleOf].multiple_of}"
    low = next((kinds[kind] for kind in (Ge, Gt) if kind in kinds), None)
    high = next((kinds[kind] for kind in (Le, Lt) if kind in kinds), None)
    if low is not None and high is not None:
        left, right = "[" if isinstance(low, Ge) else "(", "]" if isinstance(high, Le) else ")"
        return f"{words} in {left}{getattr(low, _SIGNS[type(low)][1])}, {getattr(high, _SIGNS[type(high)][1])}{right}"
    for bound in (low, high):
        if bound is not None:
            sign, attribute = _SIGNS[type(bound)]
            words = f"{words} {sign} {getattr(bound, attribute)}"
    if MinLen in kinds and Named not in kinds:
        words = f"{words}, not empty"
    return words


def shown(value: object) -> str:
    """A value as one types it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
