"""One run, from a checked configuration to its summary: on this process, or as one of several."""

import os
import tempfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ddpm_lab import processes
from ddpm_lab.config.nested import Config, leaves
from ddpm_lab.config.resume import HELD
from ddpm_lab.errors import UserError
from ddpm_lab.files import SUMS, replacing, unwritable

FEW = 4
"""Samples of a picture, or of a distance, where a run is only tried out."""


def train(cfg: DictConfig, folder: Path, checkpoint: Path | None, auto: str | None, started: float) -> int:
    """Builds, trains and measures in `folder`, from `checkpoint` where there is one, while no other process does."""
    from ddpm_lab import ranks

    with ranks.held(folder, "run.root", processes.number() == 0):
        return _train(cfg, folder, checkpoint, auto, started)


def _train(cfg: DictConfig, folder: Path, checkpoint: Path | None, auto: str | None, started: float) -> int:
    from ddpm_lab import cores, ranks
    from ddpm_lab.config.build import build, model_parts, training_identity
    from ddpm_lab.config.unused import drop_unused
    from ddpm_lab.training import fit
    from ddpm_lab.training.results import close

    fit.quiet()
    drop_unused(cfg)
    fewer_threads = cores.use_granted()
    if cfg.trainer.fast_dev_run:
        return _try_out(cfg)
    module, data, trainer = build(cfg, folder)
    processes.check(trainer.world_size)
    elsewhere = checkpoint is None and OmegaConf.select(cfg, "run.trained_in") is not None
    source = trained_in(cfg) if elsewhere else checkpoint
    start = None if source is None else fit.read_start(source, elsewhere, module, trainer)
    if start is not None:
        check_trained_so(start.stored["config"], cfg, start.checkpoint)
        fit.check_start(start, module, data, trainer)
    with ranks.by_first():
        if trainer.is_global_zero:
            (folder / SUMS).unlink(missing_ok=True)
            write_config(folder, cfg)
            fit.write_curves(folder, module.model)
            os.environ[processes.FOLDER] = str(folder.absolute())  # for those that Lightning starts
            if start is not None:
                fit.take_over(start, folder, module, trainer)
    with (fit.log_to if trainer.is_global_zero else fit.silent)(folder / "train.log"):
        fit.log.info("%s", folder)
        card = module.model.card(data.scaled("train", 4096))
        notes = [fewer_threads] if fewer_threads else []
        for line in (*notes, *fit.head(module, trainer, model_parts(cfg), auto, start), *data.notes, *card):
            fit.log.info("  %s", line)
        code = 1
        try:
            code = fit.fit_and_report(module, data, trainer, folder, start, started, training_identity(cfg))
        finally:
            close(trainer, code)
        return code


def trained_in(cfg: DictConfig) -> Path:
    """The last checkpoint of the run that `run.trained_in` names. Raises UserError where its training is not complete, or not
    that of this configuration."""
    from ddpm_lab.config.build import training_parts
    from ddpm_lab.config.resume import configuration, finished, located

    key = f"run.trained_in={cfg.run.trained_in}"
    checkpoint, folder = located(Path(cfg.run.trained_in).expanduser(), "run.trained_in")
    if folder is None or not finished(folder, cfg.trainer.max_steps):
        raise UserError(f"{key}: not the folder of a run that is complete at step {cfg.trainer.max_steps}; go on with it first")
    before, now = training_parts(configuration(checkpoint, folder)), training_parts(cfg)
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if different:
        raise UserError(
            f"{key}: that network was trained otherwise, by its {', '.join(different)}: leave run.trained_in out to train one"
        )
    return checkpoint


def check_trained_so(stored: Config, cfg: DictConfig, checkpoint: Path) -> None:
    """Raises UserError where a configuration trains otherwise than the checkpoint was, as one does that was edited by hand."""
    from ddpm_lab.config.build import training_parts

    before, now = (leaves(training_parts(config)) for config in (stored, cfg))
    keys = [key for key in {**before, **now} if not key.startswith("trainer.") or key in HELD]
    if different := [key for key in keys if before.get(key) != now.get(key)]:
        listed = "; ".join(f"{key}={now.get(key)} but the checkpoint has {before.get(key)}" for key in different)
        raise UserError(f"{checkpoint}: {listed}. Was config.yaml of that run edited? Put that back to go on with it")


def write_config(folder: Path, cfg: DictConfig) -> None:
    """config.yaml, beside the one of before and renamed. Raises UserError where that cannot be."""
    with unwritable(folder, "run.root"), replacing(folder / "config.yaml") as partial:
        OmegaConf.save(cfg, partial, resolve=True)


def _try_out(cfg: DictConfig) -> int:
    """fast_dev_run: in a folder that is thrown away, with no logger but metrics.csv."""
    from ddpm_lab.config.build import build

    with tempfile.TemporaryDirectory() as folder:
        module, data, trainer = build(cfg, Path(folder))
        trainer.loggers = trainer.loggers[:1]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            _shorten(callback, len(data.val_images))
        trainer.fit(module, datamodule=data)
    print("fast_dev_run: one training step and one validation ran; nothing was kept")
    return 0


def _shorten(callback: object, n_val: int) -> None:
    """At most `FEW` samples, and each of `n_val` validation data at as few times as the bound's standard error allows."""
    from ddpm_lab.training.callbacks.bound import VLBTerms
    from ddpm_lab.training.callbacks.frechet import Distance
    from ddpm_lab.training.callbacks.samples import Samples

    if isinstance(callback, Samples | Distance):
        callback.n = min(callback.n, FEW)
    if isinstance(callback, VLBTerms):
        callback.stride = max(callback.stride, n_val // 2)
