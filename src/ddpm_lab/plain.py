"""Plain values: what a file that somebody else wrote may hold."""

from collections.abc import Iterator, Mapping
from typing import Any


def walked(content: Any, key: str = "", limit: int = 10**5, deepest: int = 100) -> Iterator[tuple[str, Any]]:
    """Every value of nested containers by its dotted key, containers before what they hold. Raises ValueError where there are
    more than `limit`, as a file of a few lines whose names stand for each other can hold, where they are nested in more than
    `deepest` containers, as one that holds itself, and for a key that is not text."""
    waiting = [(key, content, 0)]
    while waiting:
        limit -= 1
        if limit < 0:
            raise ValueError("more values than a configuration has")
        key, value, depth = waiting.pop()
        if depth > deepest:
            raise ValueError(f"more than {deepest} containers within each other")
        yield key, value
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
        for name, inner in items:
            if isinstance(value, Mapping) and not isinstance(name, str):
                raise ValueError(f"{key or 'the root'} has the key {name!r:.40}, which is no text")
            waiting.append((f"{key}.{name}".lstrip("."), inner, depth + 1))


def check_plain(config: Any, key: str = "") -> None:
    """Raises ValueError for a configuration that is not plain values: a reference ${...} would be looked up where it is read,
    and could be to a secret of whoever reads it."""
    for name, value in walked(config, key):
        if "${" in name or (isinstance(value, str) and "${" in value):
            raise ValueError(f"{name}={brief(value)}: a stored configuration has no references ${{...}}")
        if not isinstance(value, dict | list | tuple | str | int | float | None):
            raise ValueError(f"{name}: a {type(value).__name__}; allowed are values that yaml has")


def brief(value: object) -> str:
    """On one line, and not the content of a network."""
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return f"[{', '.join(map(brief, value[:8]))}]"
    scalar = isinstance(value, str | int | float | None)
    return "null" if value is None else ascii(str(value))[1:-1][:60] if scalar else type(value).__name__


def visible(text: str) -> str:
    """With what no printer shows escaped: a terminal would obey it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


OF_CLASSES = ("conditional", "label_dropout", "label_key", "val_label_key")
"""Keys of data that reach conditional models alone."""


LATER: dict[str, dict[str, Any]] = {
    "ddpm_lab.data.digits.Digits": {"levels": 17},
    "ddpm_lab.training.optim.Adam": {"decay": "none", "decay_final": None, "decay_start": None},
}
"""Keys that options got after they were first released, and the value of before."""


def without_later(node: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an option, without later keys that have the value of before: earlier versions had none."""
    later = LATER.get(node.get("_target_", ""), {})
    return {key: value for key, value in node.items() if key not in later or value != later[key]}


def with_later(node: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with what earlier versions had without saying so."""
    return {**LATER.get(node.get("_target_", ""), {}), **node}


def as_earlier(data: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of data `without_later` keys, and without keys of classes unless they are conditional."""
    return {key: value for key, value in without_later(data).items() if data.get("conditional") or key not in OF_CLASSES}


def as_now(data: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of data `with_later` keys, and unconditional where it does not say."""
    return {"conditional": False, **with_later(as_earlier(data))}
