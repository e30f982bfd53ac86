"""Command lines of names and key=value, for the commands that Hydra does not read."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm_lab.cli.options import nearest
from ddpm_lab.errors import UserError


def run(command: Callable[[list[str]], None]) -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 130 stopped."""
    try:
        command(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


def read(argv: Sequence[str], keys: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What has no key, in order; and the values by key. What is there on the disk is never a key. Raises UserError."""
    others, given = [], {}
    for argument in argv:
        key, equals, value = argument.partition("=")
        if key in keys and equals:
            given[key] = value
        elif equals and "/" not in key and not Path(argument).expanduser().exists():
            close = nearest(key, keys)
            meant = f" Did you mean {close}=?" if close else ""
            raise UserError(f"{argument}: no such option.{meant} Options: {', '.join(keys)}")
        else:
            others.append(argument)
    return others, given
