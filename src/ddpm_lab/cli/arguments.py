"""Command lines of names and key=value, for the commands that Hydra does not read."""

import io
import os
import sys
from collections.abc import Callable, Sequence

from ddpm_lab.config.options import nearest
from ddpm_lab.errors import UserError


def run(command: Callable[[list[str]], None], usage: str) -> None:
    """`usage` is printed where nothing is asked, or --help. Exit codes: 0 done, 2 a mistake of the user's, 130 stopped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the name of a folder may be no text, and a terminal may lack a letter
            stream.reconfigure(errors="backslashreplace")
    try:
        if len(sys.argv) == 1 or {"--help", "-h"} & set(sys.argv):
            print(usage, end="")
        else:
            command(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # who read it has gone, as `head` does; files are written by then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


def there(argument: str) -> bool:
    """Whether it names a file or folder. (pathlib raises for what it cannot look up.)"""
    return os.path.exists(os.path.expanduser(argument))


def read(argv: Sequence[str], keys: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What has no key, in order; and the values by key. What is there on the disk is never a key. Raises UserError."""
    others, given = [], {}
    for argument in argv:
        key, equals, value = argument.partition("=")
        if key in keys and equals:
            given[key] = value
        elif equals and "/" not in key and not there(argument):
            close = nearest(key, keys)
            meant = f" Did you mean {close}=?" if close else ""
            raise UserError(f"{argument}: no such option.{meant} Options: {', '.join(keys)}")
        else:
            others.append(argument)
    return others, given
