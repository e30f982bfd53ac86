"""`python train.py -m`: from checked configurations to the plan of a sweep, with what sweeps/ itself does not know."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ddpm_lab import processes
from ddpm_lab.cli.unaffected import unaffected
from ddpm_lab.compare.choices import NOT_COMPARED
from ddpm_lab.compare.judge import OF_TRAINING
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.config.grammar import BASE
from ddpm_lab.config.instantiate import instantiate
from ddpm_lab.config.nested import at, plain
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.preflight import Arm, preflight
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import incomparable
from ddpm_lab.sweeps.launcher import Launcher
from ddpm_lab.sweeps.plan import Plan, PlannedRun, SearchPlan, hashed
from ddpm_lab.sweeps.runner import run_sweep
from ddpm_lab.sweeps.search import check_search

NOT_RANKED = ("data.", *(key for key in NOT_COMPARED if key not in ("resume", "seed")))
"""Beginnings of keys that change what is measured or how."""


def sweep(arms: Sequence[Arm], again: Sequence[str], dirs: Sequence[Path] = ()) -> int:
    """Runs what is not done yet; returns the exit code. `again`: arguments that each run needs too, as --config-dir=FOLDER."""
    if processes.started() > 1:
        raise UserError("-m: a sweep starts its processes itself: start it once, without torchrun or srun, with trainer=ddp")
    if "WANDB_SWEEP_ID" in os.environ:
        raise UserError("-m: wandb agent starts one run at a time, and all arms would be that run: leave -m out")
    plan = plan_of(arms, again, dirs or [conf_dir()])
    launcher = launcher_of(arms, plan)
    if plan.search is not None:
        check_search(plan.runs, plan.search)
    return run_sweep(plan, launcher)


def plan_of(arms: Sequence[Arm], again: Sequence[str], dirs: Sequence[Path]) -> Plan:
    settings, run = arms[0].config.sweep, arms[0].config.run
    if len({arm.config.run.root for arm in arms}) > 1:
        raise UserError("run.root: the runs of a sweep share one place; give it once")
    search = _search(arms, again) if "trials" in settings else None
    runs = [planned(arm, may_share=search is None) for arm in arms]
    distinct, notes = (runs, []) if search else _distinct(runs)
    return Plan(
        runs=distinct,
        place=Path(run.root) / "multirun",
        program=[*program(), *again],
        alone=BASE,
        name=settings.name,
        n_jobs=settings.n_jobs,
        show=settings.show,
        again=list(again),
        search=search,
        notes=[*notes, *unaffected(arms, dirs)],
    )


def launcher_of(arms: Sequence[Arm], plan: Plan) -> Launcher:
    """The one that the configuration names. Raises UserError if it cannot work here."""
    config = arms[0].config.launcher
    if any(arm.config.launcher != config for arm in arms):
        raise UserError("launcher: the runs of a sweep are started in one way; choose one for all")
    return instantiate(arms[0].config, "launcher", plan=plan)


def planned(arm: Arm, may_share: bool) -> PlannedRun:
    """`may_share`: whether another run with the same training may train the network of this one."""
    from ddpm_lab.config.build import training_identity

    config, trainer, logger = arm.config, arm.config.trainer, arm.config.logger
    content = plain(config)
    named = at(content, "run.trained_in")
    parts = {key: value for key, value in content.items() if key not in ("run", "sweep", "launcher")}
    parts |= {} if named is None else {"trained_in": named}
    typed = {word.lstrip("+").partition("=")[0] for word in arm.overrides}
    free = [key for key in ("group", "name") if key in logger and f"logger.{key}" not in typed]
    trains = not trainer.fast_dev_run and config.resume is None and named is None
    return PlannedRun(
        overrides=arm.overrides,
        identity=hashed(parts),
        training=training_identity(content) if may_share and trains else "",
        max_steps=trainer.max_steps,
        fast_dev_run=trainer.fast_dev_run,
        devices=trainer.devices,
        on_gpu=trainer.accelerator != "cpu",  # auto too: SLURM gives a job no GPU that it does not ask for
        unnamed=tuple(key for key in free if logger[key] is None or config.resume is not None),
    )


def program() -> list[str]:
    """The command that starts this program again."""
    script = Path(sys.argv[0])
    return [sys.executable, *([str(script)] if script.is_file() else ["-m", "ddpm_lab.cli.train"])]


def changes_measurement(key: str) -> bool:
    """Whether a key changes what is measured or how."""
    return key in ("data", "metrics", "callbacks", "logger") or (key.startswith(NOT_RANKED) and key not in OF_TRAINING)


def _search(arms: Sequence[Arm], again: Sequence[str]) -> SearchPlan:
    """The corners of a search are `arms`."""
    from ddpm_lab.config.unused import unmeasurable

    if any(arm.config.resume is not None for arm in arms):
        raise UserError("resume: a search trains runs from the start: leave resume out")
    settings = arms[0].config.sweep
    if lack := next(filter(None, (unmeasurable(plain(arm.config), settings.metric) for arm in arms)), None):
        raise UserError(f"sweep.metric={settings.metric}: {lack}: search among models that have it, or by another number")

    def plan(overrides: Sequence[str]) -> PlannedRun:
        (arm,) = preflight([*overrides, *BASE, *again])
        return planned(arm, may_share=False)

    return SearchPlan(
        trials=settings.trials,
        metric=settings.metric,
        method=settings.method,
        seed=settings.seed,
        spans=arms[0].spans,
        plan=plan,
        direction=lambda key: measure_of(key).better,
        changes_measurement=changes_measurement,
        incomparable=incomparable,
    )


def _distinct(runs: Sequence[PlannedRun]) -> tuple[list[PlannedRun], list[str]]:
    """Each run once, and a note on each that is the same as one before."""
    first: dict[str, PlannedRun] = {}
    notes = []
    for run in runs:
        one = first.setdefault(run.identity, run)
        if one is not run:
            notes.append(f"left out, as it is the same run as {' '.join(one.overrides)}: {' '.join(run.overrides)}")
    return list(first.values()), notes
