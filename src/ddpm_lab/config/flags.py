"""The flags of a command line, which are Hydra's."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from ddpm_lab.config.options import conf_dir
from ddpm_lab.errors import UserError

_SWITCHES = ("--help/-h", "--hydra-help", "--run/-r", "--multirun/-m", "--resolve", "--shell-completion/-sc")
_VALUED = ("--package/-p", "--config-path/-cp", "--config-name/-cn", "--config-dir/-cd", "--experimental-rerun")
_INFO = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
_LEFT_TO_HYDRA = {"--hydra-help", "--version", "--shell-completion", "-sc", "--help", "-h"}


class CommandLine(NamedTuple):
    """What was asked for; `runs` is False where Hydra only shows something."""

    sweep: bool
    runs: bool
    arguments: list[str]


def config_dirs(argv: Sequence[str]) -> list[Path]:
    """The project's folder, then the one of --config-dir. The first that has a file wins, as in Hydra."""
    given = _parsed(argv)[0].config_dir
    if given is None:
        return [conf_dir()]
    if not Path(given).is_dir():
        raise UserError(f"--config-dir={given}: no such folder")
    return [conf_dir(), Path(given).absolute()]


def read_command_line(argv: Sequence[str]) -> CommandLine | None:
    """Read Hydra's flags and the key=value arguments; None where there is nothing to check."""
    if not _LEFT_TO_HYDRA.isdisjoint(argv):
        return None
    args, unknown = _parsed(argv)
    for word in unknown:
        why = "no such flag; see --help" if word.startswith("-") else "write all key=value arguments side by side"
        raise UserError(f"{word}: {why}")
    if args.experimental_rerun is not None:
        return None
    if args.config_path or args.config_name:
        raise UserError("--config-path and --config-name: add a folder with your own options by --config-dir=FOLDER")
    if args.run + args.multirun + (args.cfg is not None) + (args.info is not None) > 1:
        raise UserError("choose one of --run, --multirun (-m), --cfg and --info")
    if args.resolve and args.cfg is None:
        raise UserError("--resolve belongs to --cfg: --cfg job --resolve")
    runs = args.cfg is None and args.info is None
    return CommandLine(args.multirun, runs, [word for word in args.overrides if runs or not of_hydra(word)])


def of_hydra(word: str) -> bool:
    """Whether an argument is about Hydra itself."""
    return word.lstrip("+~").startswith(("hydra.", "hydra/", "hydra="))


def hydra_flags() -> argparse.ArgumentParser:
    """A parser of the flags in Hydra's manual, but for --version. (Hydra's own parser is private.)"""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    for flags in _SWITCHES:
        parser.add_argument(*flags.split("/"), action="store_true")
    for flags in _VALUED:
        parser.add_argument(*flags.split("/"))
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=_INFO)
    return parser


def _parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and what was not understood. Raises UserError for a flag without its value."""
    parser = hydra_flags()
    parser.error = _bad_flag  # type: ignore[method-assign]
    return parser.parse_known_args([word for word in argv if word != "--version"])  # which prints and exits


def _bad_flag(message: str) -> NoReturn:
    raise UserError(f"{' '.join(message.split())}; see --help")
