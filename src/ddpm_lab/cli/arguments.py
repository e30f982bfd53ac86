"""What the commands share: how they end, and command lines of names and key=value for those that Hydra does not read."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from ddpm_lab import processes
from ddpm_lab.config.options import nearest
from ddpm_lab.errors import AlreadyReported, UserError, in_own_code
from ddpm_lab.signals import stopping

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run(command: Callable[[list[str]], None], usage: str = "", stopped: str = "stopped") -> None:
    """Runs a command on the arguments. `usage` is printed for --help and where nothing is asked; empty if the command has its
    own, and `stopped` where a signal ends it. Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the name of a folder may be no text, and a terminal may lack a letter
            stream.reconfigure(errors="backslashreplace")
    try:
        with stopping(stopped):
            if usage and (len(sys.argv) == 1 or {"--help", "-h"} & set(sys.argv)):
                print(usage, end="")
            else:
                command(sys.argv[1:])
            sys.stdout.flush()
    except UserError as error:
        refuse(error)
    except BrokenPipeError:  # who read it has gone, as `head` does; files are written by then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        place = error.filename or "the disk"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            refuse(UserError(f"{place}: could not be opened ({error.strerror}); more are allowed by ulimit -n"))
        if error.errno not in FULL:
            raise
        refuse(UserError(f"{place}: could not be written ({error.strerror}); what was written before is kept"))
    except Exception as error:
        if (own := in_own_code(error)) is None:
            raise
        traceback.print_exception(error)  # for whoever wrote it
        refuse(own)
    except KeyboardInterrupt as stop:
        print(f"\n{stopped}", file=sys.stderr)
        sys.exit(getattr(stop, "code", 130))


def refuse(error: UserError) -> NoReturn:
    """One line, from the process that refuses."""
    if not isinstance(error, AlreadyReported):
        process = f" (process {processes.number()})" if processes.number() else ""
        print(f"error{process}: {error}", file=sys.stderr)
    sys.exit(processes.exit_code(error.code))


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
