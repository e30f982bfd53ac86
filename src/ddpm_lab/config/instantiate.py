"""From a node of a configuration to the object that it describes.

A node may name as `_target_` what the files of its own group name, in conf/ or in the folder of --config-dir: a checkpoint
carries a configuration, and may be someone else's. `DDPM_LAB_TARGETS` names further code, for runs whose options came from such
a folder.
"""

import importlib
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_lab.config.nested import Config, at, first_line, plain
from ddpm_lab.config.options import conf_dir, groups, options, read_mapping
from ddpm_lab.config.signature import Explain, Node, given, inspected, unexplained
from ddpm_lab.errors import UserError, own_options

if TYPE_CHECKING:
    from omegaconf import DictConfig

OURS = [conf_dir(), conf_dir() / "evaluate", conf_dir() / "figures"]
_permitted: list[Path] = []


def permit(folders: Sequence[Path]) -> None:
    """What the files in these folders name may be run by this process, as options of their groups, until the next call."""
    _permitted[:] = folders


@cache
def option_targets(group: str, *folders: Path) -> set[str]:
    """Every `_target_` of a group's files, which are read once."""
    named: set[Any] = set()
    for path in options(group, folders).values():
        content = read_mapping(path)
        named |= {node.get("_target_") for node in (content, *content.values()) if isinstance(node, dict)}
    return {name for name in named if isinstance(name, str)}


def resolve_target(name: str, key: str) -> Callable[..., Any]:
    """What `name` stands for, as `_target_` of the node at `key`. Raises UserError for what its group does not offer."""
    group = key.partition(".")[0]
    folders = [*OURS, *_permitted]
    prefixes = [entry for entry in map(str.strip, os.environ.get("DDPM_LAB_TARGETS", "").split(",")) if entry]
    named = name in option_targets(group, *folders)
    admitted = [entry for entry in prefixes if name == entry or name.startswith(f"{entry.rstrip('.')}.")]
    if not named and not admitted:
        raise UserError(
            f"{key}._target_={name}: allowed is what an option of {group} names; for code of your own type "
            f"--config-dir=FOLDER with FOLDER/{group}/OPTION.yaml, or set DDPM_LAB_TARGETS={name}"
        )
    if name not in option_targets(group, *OURS) and (others := _offered_by(name)):
        raise UserError(f"{key}._target_={name}: an option of {', '.join(others)}, and no {group}")
    module, _, attribute = name.rpartition(".")
    try:
        thing = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # code of a user's own may raise anything as it is imported
        raise UserError(f"{key}._target_={name}: cannot be imported ({type(error).__name__}: {error})") from error
    if not callable(thing):
        raise UserError(f"{key}._target_={name}: not a class or function")
    if not named and name not in admitted and not any(_defined_in(thing, entry) for entry in admitted):
        raise UserError(f"{key}._target_={name}: defined in {thing.__module__}, which DDPM_LAB_TARGETS does not name")
    if name not in option_targets(group, *OURS):
        own_options[thing.__module__, thing.__qualname__.partition(".")[0]] = key
    return thing


def _offered_by(name: str) -> list[str]:
    """The groups of conf/ that have an option of this target."""
    return [group for group in groups(OURS) if name in option_targets(group, *OURS)]


def _defined_in(thing: Any, prefix: str) -> bool:
    """A module holds also what it imports."""
    return f"{getattr(thing, '__module__', '')}.".startswith(f"{prefix.rstrip('.')}.")


def node(cfg: "DictConfig | Config", key: str) -> Node:
    """What the node at a dotted key names and the values that it gives, held against the signature. Raises UserError."""
    values = at(plain(cfg), key)
    if not isinstance(values, Mapping) or not isinstance(values.get("_target_"), str):
        raise UserError(f"{key}: no _target_, which names the class or function to build")
    return described(key, values)


def described(key: str, node: Config, explain: Explain = unexplained) -> Node:
    """The call that a node with a `_target_` stands for. Raises UserError."""
    values = {name: value for name, value in node.items() if name != "_target_"}
    return inspected(key, resolve_target(node["_target_"], key), values, explain)


def instantiate(cfg: "DictConfig | Config", key: str, **offered: Any) -> Any:
    """The object that the node at `key` describes. It gets what its signature takes of `offered`. Raises UserError, from
    the ValueError or TypeError of a constructor that refuses its arguments."""
    target, values = node(cfg, key)
    try:
        return target(**values, **given(target, offered))
    except (ValueError, TypeError) as error:
        names_one = str(error).partition("=")[0] in values
        raise UserError(f"{key}{'.' if names_one else ': '}{error}") from error
    except UserError:
        raise
    except Exception as error:
        if target.__module__.startswith("ddpm_lab.") and not isinstance(error, RuntimeError | MemoryError):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        at_fault = f"{type(error).__name__}: {first_line(error)} ({where.filename}, line {where.lineno})"
        raise UserError(f"{key}: {target.__module__}.{getattr(target, '__name__', target)} failed: {at_fault}") from error
