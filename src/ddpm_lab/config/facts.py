"""Read a constant of a class by name, without importing it: what a loss or a network says about itself.

The pre-flight must know, before torch is imported (seconds), whether a combination can be trained. The facts stand
where they belong, as class attributes (`trains_variance = False`) or, of a function, in its decorator
(`@states(reaches_zero=True)`), and are read from the source by `ast`.
"""

import ast
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any


def fact(target: str, name: str, default: Any = None) -> Any:
    """The constant `name` of the class with this dotted name, or of its nearest base, or of a function; else `default`."""
    for body in _with_bases(target, frozenset()):
        for statement in body:
            if name in _assigned(statement):
                try:
                    return ast.literal_eval(statement.value)  # pyright: ignore[reportAttributeAccessIssue]
                except (ValueError, TypeError):
                    return default
    return default


def _assigned(statement: ast.stmt | ast.keyword) -> list[str]:
    """Names given a value by `x = 1` or `x: int = 1`, or in `@states(x=1)`."""
    if isinstance(statement, ast.keyword):
        return [statement.arg or ""]
    if isinstance(statement, ast.Assign):
        return [node.id for node in statement.targets if isinstance(node, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return [statement.target.id] if isinstance(statement.target, ast.Name) else []
    return []


def _stated(function: ast.FunctionDef) -> list[ast.keyword]:
    """What stands in the function's `@states(...)`."""
    calls = [node for node in function.decorator_list if isinstance(node, ast.Call)]
    return [word for call in calls if isinstance(call.func, ast.Name) and call.func.id == "states" for word in call.keywords]


def _with_bases(target: str, seen: frozenset[str]) -> Sequence[Sequence[ast.stmt | ast.keyword]]:
    """The body of the class, then those of its bases, through `from m import C` too; `seen` ends a circle."""
    module, _, name = target.rpartition(".")
    path = _source(module)
    if target in seen or path is None:
        return []
    seen |= {target}
    for node in _parse(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            return [node.body, *(body for base in bases for body in _with_bases(f"{module}.{base}", seen))]
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return [_stated(node)]
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _with_bases(f"{_absolute(node, module, path)}.{alias.name}", seen)
    return []


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The module that `from ..x import y` means inside `module`."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    up = node.level - (path.name == "__init__.py")  # a package counts as its own first level
    return ".".join(parts[: len(parts) - up] + ([node.module] if node.module else []))


@cache
def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # said better when it is imported
        return ast.Module(body=[], type_ignores=[])


def _source(module: str) -> Path | None:
    """The file of a module, found without running any `__init__`: only the top-level name is looked up by Python."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if not rest and spec.origin and spec.origin.endswith(".py") else None
    for location in spec.submodule_search_locations:
        place = Path(location, *rest)
        if (place / "__init__.py").is_file():
            return place / "__init__.py"
        if rest and place.with_name(f"{rest[-1]}.py").is_file():
            return place.with_name(f"{rest[-1]}.py")
    return None
