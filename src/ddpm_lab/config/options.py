"""The folders of conf/: which groups there are, their options, and what each file says about itself."""

import argparse
import difflib
import posixpath
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ddpm_lab.errors import UserError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times faster
ALSO = "# also called:"


def conf_dir() -> Path:
    """The project's own configuration: inside the package in a wheel, at the repository's root in a clone."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


def config_dirs(argv: Sequence[str]) -> list[Path]:
    """The project's folder, then the one of --config-dir. The first that has a file wins, as in Hydra."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd")
    try:
        given = parser.parse_known_args(list(argv))[0].config_dir
    except argparse.ArgumentError as error:
        raise UserError("--config-dir needs a folder: --config-dir=FOLDER") from error
    if given is None:
        return [conf_dir()]
    if not Path(given).is_dir():
        raise UserError(f"--config-dir={given}: no such folder")
    return [conf_dir(), Path(given).absolute()]


@cache
def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def defaults_list(path: Path) -> list[Any]:
    """The entries of a file's defaults list, as written."""
    return _load(path).get("defaults") or []


def target(path: Path) -> str | None:
    """The `_target_` of an option's file."""
    return _load(path).get("_target_")


def groups(dirs: Sequence[Path]) -> dict[str, str | None]:
    """Every group a user may choose from, with its default option, in the order of config.yaml."""
    found: dict[str, str | None] = {}
    for entry in defaults_list(dirs[0] / "config.yaml"):
        if isinstance(entry, dict):
            ((key, option),) = entry.items()
            if not key.startswith("override "):
                found[key.removeprefix("optional ")] = option
    return found


def choices_made(path: Path) -> dict[str, str]:
    """The groups for which a file, usually an experiment, chooses an option: `override /net: unet`."""
    entries = [entry for entry in defaults_list(path) if isinstance(entry, dict)]
    pairs = [pair for entry in entries for pair in entry.items()]
    return {key.removeprefix("override ").lstrip("/"): option for key, option in pairs}


def options(group: str, dirs: Sequence[Path]) -> dict[str, Path]:
    """The options of a group, by name, with their files; an option in a subfolder is called folder/name."""
    found: dict[str, Path] = {}
    for folder in (directory / group for directory in dirs):
        for path in folder.rglob("*.yaml"):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return dict(sorted(found.items()))


def parents(group: str, option: str, path: Path) -> list[str]:
    """Options of the same group that a file builds upon in its defaults list."""
    listed = [entry for entry in defaults_list(path) if isinstance(entry, str) and entry != "_self_"]
    named = [entry.removesuffix("@_here_") for entry in listed]  # as one in a subfolder has to be written
    here = posixpath.join("/", group, posixpath.dirname(option))
    absolute = [posixpath.normpath(posixpath.join(here, entry)) for entry in named]
    return [entry.removeprefix(f"/{group}/") for entry in absolute if entry.startswith(f"/{group}/")]


def content(group: str, option: str, dirs: Sequence[Path]) -> dict[str, Any]:
    """What an option's file holds, with what it takes from those that it builds upon."""
    path = options(group, dirs)[option]
    values: dict[str, Any] = {}
    for parent in parents(group, option, path):
        values |= content(group, parent, dirs)
    return values | {key: value for key, value in _load(path).items() if key != "defaults"}


def is_global(path: Path) -> bool:
    """Whether the file's keys stand at the root, as an experiment's do, and not under its group's name."""
    return path.read_text(encoding="utf-8").lstrip().startswith("# @package _global_")


def description(path: Path) -> str:
    """The first comment line: what the option is."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""


def aliases(group: str, dirs: Sequence[Path]) -> dict[str, str]:
    """Names that other codebases give to the options of a group, from the files' second comment, "# also called: a, b"."""
    found: dict[str, str] = {}
    for option, path in options(group, dirs).items():
        for line in path.read_text(encoding="utf-8").splitlines()[:3]:
            if line.startswith(ALSO):
                found |= {name.strip(): option for name in line.removeprefix(ALSO).split(",")}
    return found


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like the word, whatever the case, or None."""
    folded = {choice.casefold(): choice for choice in reversed(list(choices))}
    match = difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[match[0]] if match else None
