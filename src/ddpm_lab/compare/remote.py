"""Runs that a tracker keeps, in one form: wandb's, MLflow's and trackio's."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_lab.errors import UserError


@dataclass(frozen=True)
class RemoteFile:
    """`name`: with that of the run folder in front, as the tracker has it: not to be trusted. `version`: plain containers that
    differ where the content does; None where that is not known. `changed`: seconds since 1970."""

    name: str
    size: int | None
    version: list[Any] | None
    changed: float | None
    load: Callable[[Path], object]
    """Writes the file by its name below a folder."""


@dataclass(frozen=True)
class RemoteRun:
    id: str
    name: str
    files: Callable[[], list[RemoteFile]]
    errors: Callable[[str], AbstractContextManager[None]]
    """Errors of the tracker as one line that begins with a subject."""


def reason(error: BaseException) -> str:
    """Its message in one line."""
    return re.sub(r"\s+", " ", str(error)).strip(" .") or type(error).__name__


def errors_of(advice: str) -> Callable[[str], AbstractContextManager[None]]:
    """For a tracker whose errors all have the same remedy."""

    @contextmanager
    def one_line(subject: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # these packages raise many kinds
            raise UserError(f"{subject}: {reason(error)}; {advice}") from error

    return one_line


def refuse_unknown(asked: str, kind: str, there: list[str]) -> UserError:
    """`asked` is none of the `kind` that are `there`."""
    listed = ", ".join(sorted(there)[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    return UserError(f"{asked}: no such {kind}; there are {listed}" if there else f"{asked}: no such {kind}; there is none yet")
