"""A group of runs on Weights & Biases: its name, the connection, and errors as one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ddpm_lab.errors import UserError

PREFIX = "wandb:"
ANSWER_TIMEOUT = 20
"""Seconds to wait for an answer of the server."""


class Group(NamedTuple):
    """Of a sweep, the name of its folder. Without an entity, it is the user's default."""

    entity: str | None
    project: str
    name: str

    def __str__(self) -> str:
        return PREFIX + "/".join(part for part in self if part)


def parse_group(text: str) -> Group:
    """From wandb:ENTITY/PROJECT/GROUP or wandb:PROJECT/GROUP. Raises UserError for anything else."""
    parts = text.removeprefix(PREFIX).split("/")
    if len(parts) not in (2, 3) or not all(part.strip() and part.isprintable() and part not in (".", "..") for part in parts):
        raise UserError(f"{text}: allowed is {PREFIX}PROJECT/GROUP or {PREFIX}ENTITY/PROJECT/GROUP")
    return Group(parts[0] if len(parts) == 3 else None, parts[-2], parts[-1])


@contextmanager
def one_line_errors(subject: str, alternative: str = "") -> Iterator[None]:
    """Any error of wandb becomes a UserError that says what to do. `alternative`: what can be done without wandb."""
    from wandb.errors import AuthenticationError, UsageError

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # wandb raises many kinds
        advices = {
            UsageError: "log in with wandb login",
            AuthenticationError: "check the network, or take another key with wandb login --relogin",
            ValueError: "check its name, and that you may see it",
            Exception: "check the network",
        }
        advice = next(text for kind, text in advices.items() if isinstance(error, kind))
        reason = re.sub(r"\s+", " ", str(error)).strip(" .") or type(error).__name__
        advice = "" if "`wandb login`" in reason else f"; {advice}"
        raise UserError(f"{subject}: {reason}{advice}{alternative}") from error


def connected(subject: str, alternative: str = "") -> Any:
    """wandb's Api, without a prompt. Raises UserError where there is no key or no network."""
    import wandb

    with one_line_errors(subject, alternative):
        wandb.setup(settings=wandb.Settings(silent=True))
        return wandb.Api(timeout=ANSWER_TIMEOUT)


def runs_of(group: Group, api: Any) -> tuple[Group, list[Any]]:
    """The group with its entity, and its runs, oldest first. Raises UserError where there are none."""
    with one_line_errors(str(group)):
        group = group._replace(entity=group.entity or api.default_entity)
        if group.entity is None:
            raise UserError(f"{group}: no default entity; name one, as in {PREFIX}ENTITY/{group.project}/{group.name}")
        parse_group(str(group))  # refuses an entity of the server that is no plain name
        answers = api.runs(f"{group.entity}/{group.project}", filters={"group": group.name}, lazy=False)
        runs = {run.id: run for run in answers}  # list() would hide an error: it asks for the length first
    if not runs:
        raise UserError(f"{group}: no run of that group; a sweep's group is the name of its folder")
    return group, list(runs.values())
