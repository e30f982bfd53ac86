"""`variance=all` of evaluate.py: every reverse variance that a trained network can be asked.

An option says itself what it needs, by attributes of its class, which may lack each of them: `n_outputs` (2: the network must
have been trained to supply it), `needs_signal` (it is not defined where ᾱ_T = 0), `of_unit_steps` (it is not known of shorter
chains), and `left_out_of_all` (why `all` never means it). One whose signature names a `head` needs the folder RUN/heads/OPTION.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddpm_lab.config.evaluated import trained_by
from ddpm_lab.config.flags import read_command_line
from ddpm_lab.config.instantiate import instantiate, permit, resolve_target
from ddpm_lab.config.nested import Config, plain
from ddpm_lab.config.options import content, options
from ddpm_lab.errors import UserError

ALL, OWN = "all", "auto"
OF_OTHER_RUNS = "not learned by every run"


def with_all_variances(argv: list[str], dirs: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The arguments with the options that `variance=all` stands for in its place, and a line that says what is left out and
    why. Of several checkpoints it stands for what each of them can be asked. Raises UserError without -m. `dirs`: first the
    options of evaluation alone."""
    given = {key: value for key, _, value in (word.partition("=") for word in argv)}
    asked, checkpoints = given["variance"].split(","), given.get("ckpt", "").split(",")
    line = read_command_line(argv)
    if line is not None and not line.sweep:
        raise UserError(f"variance={given['variance']}: all stands for several, measured one after another: add -m")
    if "ckpt" not in given:
        raise UserError("ckpt is needed: a run folder, or a checkpoint; type ckpt=...")
    permit(dirs)
    reasons: dict[str, str] = {}
    for ckpt in checkpoints:
        for option, why in _left_out(ckpt, dirs).items():
            reasons[option] = reasons.get(option) or why
    if len(checkpoints) == 1 and reasons[OWN] == OF_OTHER_RUNS:
        del reasons[OWN]
    rungs = [option for option, why in reasons.items() if not why]
    words = dict.fromkeys(word for name in asked for word in (rungs if name == ALL else [name]))
    by_reason: dict[str, list[str]] = {}
    for option, why in reasons.items():
        if why and option not in words:
            by_reason.setdefault(why, []).append(option)
    without = "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
    note = f"variance=all is {', '.join(rungs)}" + (f"; left out: {without}" if without else "")
    return [f"variance={','.join(words)}" if word.startswith("variance=") else word for word in argv], [note]


def _left_out(ckpt: str, dirs: Sequence[Path]) -> dict[str, str]:
    """Each option, those of training first and the run's own learned variance last, and why it is left out; empty where it is
    not."""
    trained, _, folder = trained_by(ckpt)
    if "variance" not in (own := plain(trained)):
        raise UserError(f"variance=all: the model of {ckpt} has no variance; leave it out")
    of_run = own["variance"]["_target_"]
    reasons: dict[str, str] = {}
    for option in dict.fromkeys([*options("variance", dirs[1:]), *options("variance", dirs)]):
        name = content("variance", option, dirs).get("_target_")
        if name not in (None, OWN) and not (name == of_run and _supplied(name)):
            reasons[option] = _why(name, own, folder and folder / "heads" / option)
    return reasons | {OWN: _why_own(of_run)}


def _why_own(name: str) -> str:
    if not _supplied(name):
        return OF_OTHER_RUNS
    only_unit = getattr(resolve_target(name, "variance"), "of_unit_steps", False)
    return "of chains that skip no time alone: name it, with sampler.steps=null" if only_unit else ""


def _why(name: str, own: Config, head: Path | None) -> str:
    variance = resolve_target(name, "variance")
    if _learned(name):
        return "the network was not trained to supply it"
    if _of_head(variance) and not (head and head.is_dir()):
        return "the run has no such head"
    if getattr(variance, "needs_signal", False) and instantiate(own, "schedule").reaches_zero:
        return "not defined where ᾱ_T = 0"
    return getattr(variance, "left_out_of_all", "")


def _supplied(name: str) -> bool:
    """Whether a network gives it, that of the run or a head on it."""
    return getattr(resolve_target(name, "variance"), "n_outputs", 1) == 2


def _learned(name: str) -> bool:
    return _supplied(name) and not _of_head(resolve_target(name, "variance"))


def _of_head(variance: Callable[..., Any]) -> bool:
    return "head" in inspect.signature(variance).parameters
