"""One run, from a checked configuration to its summary: on this process, or as one of several."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ddpm_lab import processes
from ddpm_lab.errors import UserError

log = logging.getLogger("ddpm_lab")
LAST = Path("checkpoints", "last.ckpt")


class Start(NamedTuple):
    """The checkpoint that training goes on from; of a run that was trained elsewhere, nothing is left to train."""

    checkpoint: Path
    stored: dict[str, Any]
    elsewhere: bool


def train(cfg: DictConfig, folder: Path, checkpoint: Path | None, auto: str | None, started: float) -> int:
    """Builds, trains and measures in `folder`, from `checkpoint` where there is one."""
    _quiet()
    from ddpm_lab import ranks
    from ddpm_lab.config.build import build, drop_unused
    from ddpm_lab.files import write_json
    from ddpm_lab.training.results import close

    drop_unused(cfg)
    if cfg.trainer.fast_dev_run:
        return _try_out(cfg)
    module, data, trainer = build(cfg, folder)
    processes.check(trainer.world_size)
    start = _start(cfg, checkpoint, module, trainer)
    with ranks.by_first():
        if trainer.is_global_zero:
            make_folder(folder, cfg)
            write_json(folder / "curves.json", [curve._asdict() for curve in module.model.curves()], indent=None)
            os.environ[processes.FOLDER] = str(folder.absolute())  # for those that Lightning starts
            if start is not None:
                _take_over(start, folder, module, trainer)
    with _log_to(folder / "train.log") if trainer.is_global_zero else _silent():
        _print_header(cfg, folder, start, auto, module, trainer.world_size)
        for line in (*data.notes, *module.model.card(data.scaled("train", 4096))):
            log.info("  %s", line)
        code = 1
        try:
            code = _fit_and_report(cfg, module, data, trainer, folder, start, started)
        finally:
            close(trainer, code)
        return code


def _start(cfg: DictConfig, checkpoint: Path | None, module: Any, trainer: Any) -> Start | None:
    """The checkpoint to begin from, looked at. Raises UserError where it does not fit this configuration."""
    from ddpm_lab.models.checkpoint import read_checkpoint
    from ddpm_lab.models.run import load_weights

    elsewhere = checkpoint is None and OmegaConf.select(cfg, "run.trained_in") is not None
    if elsewhere:
        checkpoint = trained_in(cfg)
    if checkpoint is None:
        return None
    stored = read_checkpoint(checkpoint)
    _check_whole(stored, checkpoint)
    load_weights(module.model, stored["state_dict"], checkpoint)
    if not elsewhere:
        _check_processes(cfg, stored["processes"], trainer.world_size)
    if stored["global_step"] > cfg.trainer.max_steps:
        raise UserError(
            f"trainer.max_steps={cfg.trainer.max_steps}: {checkpoint} was trained for {stored['global_step']} steps already"
        )
    return Start(checkpoint, stored, elsewhere)


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
            f"{key}: that network was trained otherwise, by its {', '.join(different)}: leave run.trained_in away to train one"
        )
    return checkpoint


def _take_over(start: Start, folder: Path, module: Any, trainer: Any) -> None:
    """The rows of metrics.csv so far. Of a run that was trained elsewhere those of training alone, and its checkpoint with this
    configuration: Lightning restores it and finds no step to take."""
    from ddpm_lab.models.checkpoint import save_checkpoint
    from ddpm_lab.training.checkpoint import Checkpoints
    from ddpm_lab.training.results import keep_until

    rows = start.checkpoint.parent.parent / "metrics.csv"
    keep_until(trainer, start.stored["global_step"], rows, "train/" if start.elsewhere else "")
    if start.elsewhere:
        callbacks = {key: state for key, state in start.stored["callbacks"].items() if key != Checkpoints.__qualname__}
        save_checkpoint(start.stored | {"config": module.model.config, "callbacks": callbacks}, folder / LAST)


def make_folder(folder: Path, cfg: DictConfig) -> None:
    """With config.yaml in it. Raises UserError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    except OSError as error:
        raise UserError(f"run.root: {folder} cannot be made or written to ({error.strerror}): choose another folder") from error


def _fit_and_report(
    cfg: DictConfig, module: Any, data: Any, trainer: Any, folder: Path, start: Start | None, started: float
) -> int:
    from ddpm_lab import ranks
    from ddpm_lab.config.build import training_identity
    from ddpm_lab.files import write_json
    from ddpm_lab.training.final import measure, peak_memory, summary, table, written
    from ddpm_lab.training.interrupt import Interrupted
    from ddpm_lab.training.results import log_final, log_folder

    checkpoint = None if start is None else folder / LAST if start.elsewhere else start.checkpoint
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
    content = summary(trainer, module, results, started, memory) | {"training_hash": training_identity(cfg)}
    if start is not None and start.elsewhere:
        content["trained_in"] = str(cfg.run.trained_in)
    write_json(folder / "summary.json", content)
    log.info("\n%s", "\n".join([*table(results, content), "", "written:", *written(folder)]))
    log_final(trainer, results)
    log_folder(trainer)
    return 0


def _try_out(cfg: DictConfig) -> int:
    """fast_dev_run: in a folder that is thrown away, with no logger but metrics.csv."""
    import tempfile

    from ddpm_lab.config.build import build

    with tempfile.TemporaryDirectory() as folder:
        module, data, trainer = build(cfg, Path(folder))
        trainer.loggers = trainer.loggers[:1]
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


def _print_header(cfg: DictConfig, folder: Path, start: Start | None, auto: str | None, module: Any, processes: int) -> None:
    from ddpm_lab.config.build import model_parts

    parameters = sum(p.numel() for p in module.model.net.parameters())
    groups = [name for name in ("data", "model", *model_parts(cfg), "optim") if name in cfg]
    choices = {group: str(cfg[group]._target_).rpartition(".")[2] for group in groups}
    if "variance" in choices and module.model.sample_record().get("variance") is None:
        choices["sampler"] += " (which does not use the variance)"
    log.info("%s", folder)
    log.info("  %s", "   ".join(f"{group} {name}" for group, name in choices.items()))
    shared = f" on {processes} processes" if processes > 1 else ""
    size = f"{parameters:,} parameters, {cfg.trainer.max_steps} steps of batch {cfg.data.batch_size}{shared}"
    log.info("  %s, seed %d", size, cfg.seed)
    if auto:
        log.info("  variance=auto: %s, as the paper of this loss has it", auto)
    if start is not None:
        log.info("  %s %s", "nothing to train: the network of" if start.elsewhere else "going on from", start.checkpoint)


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
