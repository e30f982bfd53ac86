"""Nested configurations: as plain containers, and by dotted keys."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ddpm_lab.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Config = Mapping[str, Any]


def plain(cfg: "DictConfig | Config") -> dict[str, Any]:
    """As plain containers. Raises UserError for ${...} that leads nowhere."""
    if isinstance(cfg, dict):
        return cfg
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return cast(dict[str, Any], OmegaConf.to_container(cast(Any, cfg), resolve=True))
    except (OmegaConfBaseException, ValueError) as error:
        key = getattr(error, "full_key", None)
        raise UserError(f"{key}: {first_line(error)}" if key else first_line(error)) from error


def at(values: Any, key: str) -> Any:
    """The value at a dotted key; None where there is no such key."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def leaves(values: Config, prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted key. An empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def first_line(error: BaseException) -> str:
    """The first sentence of what a library says, or of what caused it."""
    while not str(error).strip() and error.__cause__:
        error = error.__cause__
    return re.split(r"\n|\. ", str(error).strip(), maxsplit=1)[0] or type(error).__name__
