"""One run, from a checked configuration to its summary: on this process, or as one of several."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ddpm_lab import processes
from ddpm_lab.errors import UserError

log = logging.getLogger("ddpm_lab")


def train(cfg: DictConfig, folder: Path, checkpoint: Path | None, auto: str | None, started: float) -> int:
    """Builds, trains and measures in `folder`, from `checkpoint` where there is one."""
    _quiet()
    from ddpm_lab import ranks
    from ddpm_lab.config.build import build, load_weights
    from ddpm_lab.models.checkpoint import read_checkpoint
    from ddpm_lab.training.card import schedule_card
    from ddpm_lab.training.results import close, keep_until

    module, data, trainer = build(cfg, folder)
    processes.check(trainer.world_size)
    stored = None if checkpoint is None else read_checkpoint(checkpoint)
    if checkpoint is not None and stored is not None:
        _check_whole(stored, checkpoint)
        load_weights(module, stored["state_dict"], checkpoint)
        _check_processes(cfg, stored["processes"], trainer.world_size)
        if stored["global_step"] > cfg.trainer.max_steps:
            raise UserError(
                f"trainer.max_steps={cfg.trainer.max_steps}: {checkpoint} was trained for {stored['global_step']} steps already"
            )
    if cfg.trainer.fast_dev_run:
        return _try_out(module, data, trainer)
    with ranks.by_first():
        if trainer.is_global_zero:
            make_folder(folder, cfg)
            os.environ[processes.FOLDER] = str(folder.absolute())  # for those that Lightning starts
            if checkpoint is not None and stored is not None:
                keep_until(trainer, stored["global_step"], checkpoint.parent.parent / "metrics.csv")
    with _log_to(folder / "train.log") if trainer.is_global_zero else _silent():
        _print_header(cfg, folder, checkpoint, auto, module, trainer.world_size)
        for line in (*data.notes, *schedule_card(module.diffusion, module.loss, data.scaled("train", 4096))):
            log.info("  %s", line)
        code = 1
        try:
            code = _fit_and_report(module, data, trainer, folder, checkpoint, started)
        finally:
            close(trainer, code)
        return code


def make_folder(folder: Path, cfg: DictConfig) -> None:
    """With config.yaml in it. Raises UserError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    except OSError as error:
        raise UserError(f"run.root: {folder} cannot be made or written to ({error.strerror}): choose another folder") from error


def _fit_and_report(module: Any, data: Any, trainer: Any, folder: Path, checkpoint: Path | None, started: float) -> int:
    from ddpm_lab import ranks
    from ddpm_lab.training.final import measure, peak_memory, summary, table, write_json, written
    from ddpm_lab.training.interrupt import Interrupted
    from ddpm_lab.training.results import log_final, log_folder

    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        log.info("measuring …")
        results = measure(trainer, module)
        memory = max(ranks.gather(peak_memory(module.device)))
    except Interrupted as stop:
        log.info("stopped at step %d; go on with: python train.py resume=%s", trainer.global_step, folder)
        return 128 + stop.number
    except (KeyboardInterrupt, SystemExit):
        log.info("stopped at once; go on from the last checkpoint with: python train.py resume=%s", folder)
        return 130
    if not trainer.is_global_zero:
        return 0
    about = summary(trainer, module, results, started, memory)
    write_json(about, folder / "summary.json")
    log.info("\n%s", "\n".join([*table(results, about), "", "written:", *written(folder)]))
    log_final(trainer, results)
    log_folder(trainer)
    return 0


def _try_out(module: Any, data: Any, trainer: Any) -> int:
    """fast_dev_run: in a folder that is thrown away."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trainer.loggers = trainer.loggers[:1]  # metrics.csv
        trainer.logger.path = Path(folder) / "metrics.csv"
        trainer._default_root_dir = folder
        trainer.fit(module, datamodule=data)
    print("fast_dev_run: one training step and one validation ran; nothing was kept")
    return 0


def _check_whole(stored: dict[str, Any], checkpoint: Path) -> None:
    if "optimizer_states" not in stored:
        raise UserError(
            f"resume={checkpoint}: holds weights alone, for ddpm_lab.load() and evaluate.py; training goes on from a "
            "checkpoint with the state of the optimiser, as logger.artifact=checkpoint keeps it"
        )


def _check_processes(cfg: DictConfig, before: int, now: int) -> None:
    if before != now and not cfg.trainer.other_world_size:
        raise UserError(
            f"resume={cfg.resume}: that run had {before} processes and this one has {now}, so that dropout and rounding would "
            "differ: use as many, or trainer.other_world_size=true to go on all the same"
        )


def _print_header(
    cfg: DictConfig, folder: Path, checkpoint: Path | None, auto: str | None, module: Any, processes: int
) -> None:
    parameters = sum(p.numel() for p in module.net.parameters())
    choices = {
        group: str(cfg[group]._target_).rpartition(".")[2]
        for group in ("data", "schedule", "prediction", "variance", "loss", "sampler", "net")
    }
    log.info("%s", folder)
    log.info("  %s", "   ".join(f"{group} {name}" for group, name in choices.items()))
    shared = f" on {processes} processes" if processes > 1 else ""
    size = f"{parameters:,} parameters, {cfg.trainer.max_steps} steps of batch {cfg.data.batch_size}{shared}"
    log.info("  %s, seed %d", size, cfg.seed)
    if auto:
        log.info("  variance=auto: %s, as the paper of this loss has it", auto)
    if checkpoint is not None:
        log.info("  going on from %s", checkpoint)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Our lines to the console as they are, and with times to train.log, which also gets other libraries' warnings."""
    console, file = logging.StreamHandler(sys.stdout), logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    ours, others = [log], [logging.getLogger(name) for name in ("py.warnings", "lightning.pytorch", "lightning.fabric")]
    log.setLevel(logging.INFO)
    for logger in ours + others:
        logger.handlers, logger.propagate = [file], False
    log.addHandler(console)
    logging.captureWarnings(True)
    try:
        yield
    except UserError as error:  # main prints it
        log.removeHandler(console)
        log.error("error: %s", error)
        raise
    finally:
        logging.captureWarnings(False)
        for logger in ours + others:
            logger.handlers = []
        file.close()


@contextmanager
def _silent() -> Iterator[None]:
    """Process 0 speaks for all."""
    for logger in (log, logging.getLogger("py.warnings")):
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    logging.captureWarnings(True)
    yield


def _quiet() -> None:
    """What Lightning says about hardware and tips belongs in no calm console."""
    import lightning  # noqa: F401  sets its own levels when imported

    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
