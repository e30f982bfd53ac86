"""The flags of a command line, which are Hydra's."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from ddpm_lab.errors import UserError

_LEFT_TO_HYDRA = {"--hydra-help", "--version", "--shell-completion", "-sc"}
_FLAGS = ("--run -r", "--multirun -m", "--resolve", "--experimental-rerun=", "--cfg -c=", "--package -p=", "--info -i",
          "--config-path -cp=", "--config-name -cn=", "--config-dir -cd=")  # fmt: skip


class CommandLine(NamedTuple):
    """What was asked for; `runs` is False where Hydra only shows something."""

    sweep: bool
    runs: bool
    arguments: list[str]


def read_command_line(argv: Sequence[str]) -> CommandLine | None:
    """Read Hydra's flags and the key=value arguments; None where there is nothing to check."""
    if _LEFT_TO_HYDRA & set(argv) or {"--help", "-h"} & set(argv):
        return None
    args, unknown = _flags().parse_known_args(list(argv))
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


def _flags() -> argparse.ArgumentParser:
    """Hydra's, as `hydra.main` reads them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = _bad_flag
    parser.add_argument("overrides", nargs="*")
    for flag in _FLAGS:
        names = flag.rstrip("=").split()
        if "--info" in names:
            kinds = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
            parser.add_argument(*names, const="all", nargs="?", choices=kinds)
        elif flag.endswith("="):
            parser.add_argument(*names, choices=("job", "hydra", "all") if "--cfg" in names else None)
        else:
            parser.add_argument(*names, action="store_true")
    return parser


def of_hydra(word: str) -> bool:
    return word.lstrip("+~").startswith(("hydra.", "hydra/", "hydra="))


def _bad_flag(message: str) -> NoReturn:
    raise UserError(f"{' '.join(message.split())}; see --help")
