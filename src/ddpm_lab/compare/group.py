"""A group of runs that a tracker keeps: its name; of Weights & Biases the connection too, and errors as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ddpm_lab.compare.remote import reason
from ddpm_lab.errors import UserError

PREFIX = "wandb:"
FORMS = {
    "wandb": ("wandb:PROJECT/GROUP", "wandb:ENTITY/PROJECT/GROUP"),
    "mlflow": ("mlflow:EXPERIMENT", "mlflow:EXPERIMENT/GROUP"),
    "trackio": ("trackio:PROJECT", "trackio:PROJECT/GROUP"),
}
"""How groups are typed, by tracker: the shorter form first."""
ANSWER_TIMEOUT = 20
"""Seconds to wait for an answer of the server."""


class Group(NamedTuple):
    """Of a sweep, the name of its folder; without a name, all runs of the project. Without an entity, it is the user's default;
    only wandb has any."""

    entity: str | None
    project: str
    name: str
    tracker: str = "wandb"

    @property
    def parts(self) -> list[str]:
        return [part for part in (self.entity, self.project, self.name) if part]

    def __str__(self) -> str:
        return f"{self.tracker}:{'/'.join(self.parts)}"


def is_group(text: str) -> bool:
    """Whether it begins as the name of a group does."""
    return text.startswith(tuple(f"{tracker}:" for tracker in FORMS))


def parse_group(text: str) -> Group:
    """From one of `FORMS`. Raises UserError for anything else."""
    tracker, _, named = text.partition(":")
    parts, forms = named.split("/"), FORMS[tracker]
    lengths = [form.count("/") + 1 for form in forms]
    if len(parts) not in lengths or not all(part.strip() and part.isprintable() and part not in (".", "..") for part in parts):
        raise UserError(f"{text}: allowed is {' or '.join(forms)}")
    if tracker == "wandb":
        return Group(parts[0] if len(parts) == 3 else None, parts[-2], parts[-1])
    return Group(None, parts[0], "".join(parts[1:]), tracker)


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
        why = reason(error)
        advice = "" if "`wandb login`" in why else f"; {advice}"
        raise UserError(f"{subject}: {why}{advice}{alternative}") from error


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
