"""`python train.py`: answers mistakes at once, then composes, trains, measures and reports."""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from ddpm_lab import processes
from ddpm_lab.cli.fit import train
from ddpm_lab.config.compat import resolve_auto
from ddpm_lab.config.help import help_for_group, help_text
from ddpm_lab.config.options import config_dirs
from ddpm_lab.errors import ToldElsewhere, UserError
from ddpm_lab.files import new_folder

# Idle threads soon sleep instead of spinning: on cores that are shared, long spins make small networks 5 to 20 times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""
    try:
        _main(sys.argv[1:])
    except UserError as error:
        _refuse(error)


def _refuse(error: UserError) -> NoReturn:
    who = f" (process {processes.number()})" if processes.number() else ""
    if not isinstance(error, ToldElsewhere):
        print(f"error{who}: {error}", file=sys.stderr)
    sys.exit(error.code)


def _main(argv: list[str]) -> None:
    if processes.started_by_another():
        cfg, folder = processes.configuration()
        sys.exit(train(cfg, folder, None if cfg.resume is None else Path(cfg.resume), None, time.time()))
    dirs = config_dirs(argv)
    if "--help" in argv or "-h" in argv:
        groups = [argument for argument in argv if not argument.startswith("-") and "=" not in argument]
        print(help_for_group(groups[0], dirs) if groups else help_text(dirs))
        return
    from ddpm_lab.config.grammar import canonical
    from ddpm_lab.config.preflight import preflight

    argv, notes = canonical(argv, dirs)
    print("".join(f"{note}\n" for note in notes), end="")
    arms, in_sweep = preflight(argv), "-m" in argv or "--multirun" in argv
    for i, arm in enumerate(arms):
        if arm.config.resume is not None:
            arms[i] = branched(arm, in_sweep, dirs)
        elif not in_sweep and processes.started() == 1:
            run_folder(arm.config, arm.choices)
    if arms and in_sweep:
        from ddpm_lab.cli.sweep import sweep

        of_hydra = [word for word in argv if word.lstrip("+").startswith(("hydra.", "hydra/"))]
        sys.exit(sweep(arms, [*(f"--config-dir={folder}" for folder in dirs[1:]), *of_hydra], dirs))
    import hydra

    sys.argv = [sys.argv[0], *argv]
    hydra.main(config_path=str(dirs[0]), config_name="config", version_base="1.3")(job)()


def branched(arm: Any, in_sweep: bool, dirs: list[Path]) -> Any:
    """With the configuration that it will go on with. Each run of a sweep has a folder of its own."""
    from ddpm_lab.config.resume import resumed

    about = {key: arm.config.get(key) for key in ("run", "sweep", "launcher")}
    arm.config.run.name = "new" if in_sweep else arm.config.run.name
    config = resumed(arm.config, arm.overrides, dirs).config
    OmegaConf.set_struct(config, False)
    for key, value in about.items():
        config[key] = value
    return arm._replace(config=config)


def run_folder(cfg: DictConfig, choices: dict[str, Any]) -> Path:
    """outputs/<experiment>/<name, or date and time>; not made yet. Raises UserError where a named one exists, unless it is that
    of a requeued job, with a checkpoint to go on from."""
    experiment = choices.get("experiment", "none")
    cfg.run.experiment = cfg.run.experiment or (choices["data"] if experiment == "none" else experiment)
    parent = Path(cfg.run.root) / cfg.run.experiment
    if cfg.run.name is None and processes.in_slurm():
        cfg.run.name = f"slurm-{os.environ['SLURM_JOB_ID']}"
    if cfg.run.name is None:
        return new_folder(parent)
    folder = parent / cfg.run.name
    if folder.exists() and not processes.requeued():
        raise UserError(
            f"run.name={cfg.run.name}: {folder} exists, and nothing is overwritten: "
            f"choose another name, or go on with it by resume={folder}"
        )
    if folder.exists() and not (folder / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"{folder}: this job was requeued before its first checkpoint, so there is nothing to go on from, and nothing is "
            "overwritten: remove that folder and start the job anew"
        )
    return folder


def settled(
    cfg: DictConfig, checkpoint: Path | None, folder: Path | None, choices: dict[str, Any]
) -> tuple[DictConfig, Path | None, Path]:
    """With a folder, where there is none yet. A requeued job goes on in its own, as `resume=` that folder would."""
    if folder is None:
        folder = run_folder(cfg, choices)
        if folder.exists():
            from ddpm_lab.config.resume import resumed

            cfg, checkpoint, _ = resumed(OmegaConf.create({"resume": str(folder), "run": {"name": None}}), [], [])
    return cfg, checkpoint, folder


def job(cfg: DictConfig) -> None:
    """One run, as Hydra composed it."""
    from hydra.core.hydra_config import HydraConfig

    from ddpm_lab.config.resume import resumed

    started, hydra_cfg = time.time(), HydraConfig.get()
    OmegaConf.set_struct(cfg, False)
    for about_sweeps in ("sweep", "launcher"):
        cfg.pop(about_sweeps)
    checkpoint, folder, auto = None, None, None
    if cfg.resume is not None:
        cfg, checkpoint, folder = resumed(cfg, list(hydra_cfg.overrides.task), config_dirs(sys.argv[1:]))
    else:
        auto = resolve_auto(cfg, config_dirs(sys.argv[1:]))
    try:
        settle = partial(settled, cfg, checkpoint, folder, dict(hydra_cfg.runtime.choices))
        cfg, checkpoint, folder = processes.agree(settle, cfg)
        code = train(cfg, folder, checkpoint, auto, started)
    except UserError as error:  # Hydra would print a traceback; it lets an exit pass
        _refuse(error)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
