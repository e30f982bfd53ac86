"""The folders of conf/: which groups there are, their options, and what each file says about itself."""

import difflib
import itertools
import posixpath
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ddpm_lab.errors import UserError
from ddpm_lab.files import read_yaml

ALSO = "# also called:"


def conf_dir() -> Path:
    """The project's own configuration: inside the package in a wheel, at the repository's root in a clone."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


@cache
def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a yaml file. Raises UserError for what is not a mapping of keys to values."""
    try:
        content = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path}: a file of options maps keys to values; this is a {type(content).__name__}")
    return content or {}


def defaults_list(path: Path) -> list[Any]:
    """The entries of a file's defaults list, as written."""
    entries = read_mapping(path).get("defaults") or []
    if not isinstance(entries, list) or not all(isinstance(entry, str | dict) for entry in entries):
        raise UserError(f"{path}: defaults is no list of options, as in: defaults: [OPTION, _self_]")
    return entries


def target(path: Path) -> str | None:
    """The `_target_` of an option's file."""
    return read_mapping(path).get("_target_")


def groups(dirs: Sequence[Path]) -> dict[str, str | None]:
    """Every group a user may choose from, with its default option, in the order of config.yaml."""
    known: dict[str, str | None] = {}
    for entry in defaults_list(dirs[0] / "config.yaml"):
        if isinstance(entry, dict):
            ((key, option),) = entry.items()
            if not key.startswith("override "):
                known[key.removeprefix("optional ")] = option
    return known


def choices_made(path: Path) -> dict[str, str]:
    """The groups for which a file, usually an experiment, chooses an option: `override /net: unet`."""
    entries = [entry for entry in defaults_list(path) if isinstance(entry, dict)]
    pairs = [pair for entry in entries for pair in entry.items()]
    return {key.removeprefix("override ").lstrip("/"): option for key, option in pairs}


def options(group: str, dirs: Sequence[Path]) -> dict[str, Path]:
    """The options of a group, by name, with their files; an option in a subfolder is called folder/name."""
    files: dict[str, Path] = {}
    for folder in (directory / group for directory in dirs):
        for path in folder.rglob("*.yaml"):
            files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return dict(sorted(files.items()))


def option_names(dirs: Sequence[Path]) -> dict[tuple[str, str], str]:
    """(group, _target_) to the option: of several the shortest name, which the others build on."""
    files = [(name, group, path) for group in groups(dirs) for name, path in options(group, dirs).items()]
    names: dict[tuple[str, str], str] = {}
    for name, group, path in sorted(files, key=lambda file: len(file[0])):
        names.setdefault((group, target(path) or ""), name)
    return names


def parents(group: str, option: str, path: Path) -> list[str]:
    """Options of the same group that a file builds upon in its defaults list."""
    listed = [entry for entry in defaults_list(path) if isinstance(entry, str) and entry != "_self_"]
    named = [entry.removesuffix("@_here_") for entry in listed]  # as one in a subfolder has to be written
    here = posixpath.join("/", group, posixpath.dirname(option))
    absolute = [posixpath.normpath(posixpath.join(here, entry)) for entry in named]
    return [entry.removeprefix(f"/{group}/") for entry in absolute if entry.startswith(f"/{group}/")]


def lineage(group: str, option: str, dirs: Sequence[Path], above: tuple[str, ...] = ()) -> list[Path]:
    """The files that make an option: those that it builds upon first, its own last. Raises UserError for a circle."""
    files = options(group, dirs)
    if option in above:
        raise UserError(f"{group}={option}: its defaults list leads back to it: {' -> '.join([*above, option])}")
    if option not in files:
        raise UserError(f"{group}={above[-1]}: its defaults list names {group}={option}, and there is no such option")
    ancestors = [lineage(group, parent, dirs, (*above, option)) for parent in parents(group, option, files[option])]
    return [*dict.fromkeys(path for paths in ancestors for path in paths), files[option]]


def content(group: str, option: str, dirs: Sequence[Path]) -> dict[str, Any]:
    """What an option's file holds, with what it takes from those that it builds upon."""
    values: dict[str, Any] = {}
    for path in lineage(group, option, dirs):
        values |= read_mapping(path)
    values.pop("defaults", None)
    return values


@cache
def _head(path: Path) -> list[str]:
    """The comments that a file begins with."""
    lines = filter(str.strip, path.read_text(encoding="utf-8", errors="replace").splitlines())
    return list(itertools.takewhile(lambda line: line.startswith("#"), lines))


def is_global(path: Path) -> bool:
    """Whether the file's keys stand at the root, as an experiment's do, and not under its group's name."""
    return any(line.startswith("# @package _global_") for line in _head(path)[:1])


def description(path: Path) -> str:
    """The first comment line: what the option is."""
    return next((line.lstrip("# ").strip() for line in _head(path) if not line.startswith("# @package")), "")


def aliases(group: str, dirs: Sequence[Path]) -> dict[str, str]:
    """Names that other codebases give to the options of a group, from the files' second comment, "# also called: a, b"."""
    known: dict[str, str] = {}
    for option, path in options(group, dirs).items():
        for line in _head(path):
            if line.startswith(ALSO):
                known |= {name.strip(): option for name in line.removeprefix(ALSO).split(",")}
    return known


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like the word, whatever the case, or None."""
    folded = {choice.casefold(): choice for choice in reversed(list(choices))}
    match = difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[match[0]] if match else None
