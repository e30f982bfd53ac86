"""A group of runs on Weights & Biases: how it is named, how it is reached, and what is said where it cannot be."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ddpm_lab.errors import UserError

PREFIX = "wandb:"
TIMEOUT = 20
"""Seconds to wait for an answer of the server."""


class Group(NamedTuple):
    """Of a sweep, the name of its folder. Without an entity, it is the user's default."""

    entity: str | None
    project: str
    name: str

    def __str__(self) -> str:
        return PREFIX + "/".join(part for part in self if part)


def named(text: str) -> Group:
    """From wandb:ENTITY/PROJECT/GROUP or wandb:PROJECT/GROUP. Raises UserError for anything else."""
    parts = text.removeprefix(PREFIX).split("/")
    if len(parts) not in (2, 3) or not all(part.strip() and part.isprintable() and part not in (".", "..") for part in parts):
        raise UserError(f"{text}: allowed is {PREFIX}PROJECT/GROUP or {PREFIX}ENTITY/PROJECT/GROUP")
    return Group(parts[0] if len(parts) == 3 else None, parts[-2], parts[-1])


@contextmanager
def plainly(what: str, otherwise: str = "") -> Iterator[None]:
    """An error of wandb's as one line that says what to do; `otherwise` says what can be done without wandb."""
    from wandb.errors import AuthenticationError, UsageError

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # wandb raises many kinds
        if isinstance(error, UsageError):
            do = "log in with wandb login"
        elif isinstance(error, AuthenticationError):
            do = "check the network, or take another key with wandb login --relogin"
        elif isinstance(error, ValueError):
            do = "check its name, and that you may see it"
        else:
            do = "check the network"
        reason = re.sub(r"\s+", " ", str(error)).strip(" .") or type(error).__name__
        do = "" if "`wandb login`" in reason else f"; {do}"
        raise UserError(f"{what}: {reason}{do}{otherwise}") from error


def connected(what: str, otherwise: str = "") -> Any:
    """wandb's Api, which asks nothing. Raises UserError where there is no key or no network."""
    import wandb

    with plainly(what, otherwise):
        wandb.setup(settings=wandb.Settings(silent=True))
        return wandb.Api(timeout=TIMEOUT)


def runs_of(group: Group, api: Any) -> tuple[Group, list[Any]]:
    """The group with its entity, and its runs, oldest first. Raises UserError where there are none."""
    with plainly(str(group)):
        group = group._replace(entity=group.entity or api.default_entity)
        if group.entity is None:
            raise UserError(f"{group}: no default entity; name one, as in {PREFIX}ENTITY/{group.project}/{group.name}")
        named(str(group))  # the server's entity is one name
        asked = api.runs(f"{group.entity}/{group.project}", filters={"group": group.name}, lazy=False)
        runs = {run.id: run for run in asked}  # list() would hide an error, as it asks for the length first
    if not runs:
        raise UserError(f"{group}: no run of that group; a sweep's group is the name of its folder")
    return group, list(runs.values())
