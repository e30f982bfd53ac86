"""`python train.py`: answers mistakes at once, then trains, measures and reports."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddpm_lab import processes
from ddpm_lab.cli.arguments import run
from ddpm_lab.cli.fit import train
from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.grammar import canonical
from ddpm_lab.config.nested import plain
from ddpm_lab.config.preflight import VERSION, Arm, preflight
from ddpm_lab.config.resume import resumed
from ddpm_lab.errors import UserError
from ddpm_lab.files import made, new_folder, unwritable

BEFORE_A_STEP = ("config.yaml", "curves.json", "train.log")
"""What a run folder has when training begins."""


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""
    run(_main)


def _main(argv: list[str]) -> None:
    dirs = config_dirs(argv)
    if processes.started_by_another():
        from ddpm_lab.config.instantiate import permit

        permit(dirs)
        cfg, folder = processes.configuration()
        sys.exit(train(cfg, folder, None if cfg.resume is None else Path(cfg.resume), None, time.time()))
    if "--help" in argv or "-h" in argv:
        from ddpm_lab.config.help import TRAIN, printed

        printed(argv, dirs, TRAIN)
        return
    argv, notes = canonical(argv, dirs)
    arms, in_sweep = preflight(argv), "-m" in argv or "--multirun" in argv
    print("".join(f"{note}\n" for note in notes), end="")
    arms = [arm if arm.choices.get("head") is None else second_stage(arm, dirs) for arm in arms]
    if not arms:
        _shown_by_hydra(argv, dirs[0])
    elif in_sweep:
        from ddpm_lab.cli.sweep import sweep

        arms = [arm if arm.config.resume is None else branched(arm, dirs) for arm in arms]
        sys.exit(sweep(arms, [f"--config-dir={folder}" for folder in dirs[1:]], dirs))
    else:
        sys.exit(one_run(arms[0], dirs))


def _shown_by_hydra(argv: list[str], folder: Path) -> None:
    """What --cfg, --info and the like ask for."""
    sys.argv = [sys.argv[0], *argv]
    hydra.main(config_path=str(folder), config_name="config", **VERSION)(lambda cfg: None)()


def branched(arm: Arm, dirs: list[Path]) -> Arm:
    """A run of a sweep that goes on from another: with its configuration, in a folder of its own."""
    kept = {key: arm.config.get(key) for key in ("run", "sweep", "launcher")}
    arm.config.run.name = "new"
    config = resumed(arm.config, arm.overrides, dirs).config
    OmegaConf.set_struct(config, False)
    config.update(kept)
    return arm._replace(config=config)


def second_stage(arm: Arm, dirs: list[Path]) -> Arm:
    """A head on the network of another run, with its configuration; in a sweep, in a folder of its own."""
    from ddpm_lab.config.head import headed

    kept = {key: arm.config[key] for key in ("sweep", "launcher")}
    config = headed(arm.config, str(arm.choices["head"]), arm.overrides, dirs)
    config.update(kept)
    return arm._replace(config=config)


def one_run(arm: Arm, dirs: list[Path]) -> int:
    """Trains in a new folder, or goes on in that of resume=."""
    started, cfg, checkpoint, folder = time.time(), arm.config, None, None
    OmegaConf.set_struct(cfg, False)
    for key in ("sweep", "launcher", *(["base"] if cfg.base is None else [])):
        cfg.pop(key)
    if cfg.resume is not None:
        cfg, checkpoint, folder = resumed(cfg, arm.overrides, dirs)
    auto = arm.auto if cfg.resume is None else None
    cfg, checkpoint, folder = processes.agree(partial(settled, cfg, checkpoint, folder, arm.choices), cfg)
    return train(cfg, folder, checkpoint, auto, started)


def settled(
    cfg: DictConfig, checkpoint: Path | None, folder: Path | None, choices: dict[str, Any]
) -> tuple[DictConfig, Path | None, Path]:
    """Where there is no folder yet, with the numbers that its schedule is fitted to, and one. A requeued job goes on in its
    own, as `resume=` that folder would."""
    if folder is None:
        from ddpm_lab.config.fit import fitted

        cfg = fitted(cfg)
        folder = run_folder(cfg, choices)
        if (folder / "checkpoints" / "last.ckpt").exists():
            cfg, checkpoint, _ = resumed(OmegaConf.create({"resume": str(folder), "run": {"name": None}}), [], [])
    return cfg, checkpoint, folder


def run_folder(cfg: DictConfig, choices: dict[str, Any]) -> Path:
    """outputs/<experiment>/<name, or number of the job, or date and time>, made; or that of this same run, where a requeued job
    goes on, and a named run begins again that was killed before its first checkpoint, or ended before its first step. Raises
    UserError where another named one exists."""
    experiment = choices.get("experiment") or "none"
    cfg.run.experiment = cfg.run.experiment or (choices["data"] if experiment == "none" else experiment)
    parent = Path(cfg.run.root) / cfg.run.experiment
    if cfg.run.name is None and (job := processes.job()):
        first = parent / f"slurm-{job}"
        begun = [first, *sorted(parent.glob(f"{first.name}_*"))] if processes.requeued() else []
        folder = next((folder for folder in begun if _same_run(cfg, folder)), None) or made(first, "run.root")
        cfg.run.name = folder.name
        return folder
    if cfg.run.name is None:
        return new_folder(parent, "run.root")
    folder = parent / cfg.run.name
    with unwritable(folder, "run.root"):
        parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            kept = [*folder.glob("checkpoints/[!.]*.ckpt"), *folder.glob("summary.json")]
    if _is_unbegun(folder) or (_same_run(cfg, folder) and (processes.requeued() or not kept)):
        return folder
    raise UserError(
        f"run.name={cfg.run.name}: {folder} exists, and nothing is overwritten: "
        f"choose another name, or go on with it by resume={folder}"
    )


def _is_unbegun(folder: Path) -> bool:
    """Whether a folder holds no more than a run has before its first step: it was killed there, or refused once its data were
    read. Its log stays, and the next goes on in it."""
    return folder.is_dir() and all(path.name in BEFORE_A_STEP or path.name.startswith(".") for path in folder.iterdir())


def _same_run(cfg: DictConfig, folder: Path) -> bool:
    """Whether the folder is that of a run with this configuration."""
    from ddpm_lab.config.unused import drop_unused

    ours = cfg.copy()
    drop_unused(ours)
    try:
        stored, new = plain(cast(DictConfig, OmegaConf.load(folder / "config.yaml"))), plain(ours)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return False
    return all(stored.get(key) == new.get(key) for key in (stored | new) if key not in ("resume", "run"))


if __name__ == "__main__":
    main()
