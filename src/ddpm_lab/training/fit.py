"""One run from its start to its summary: the checkpoint it goes on from, its log, training, and what was measured."""

import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lightning import LightningDataModule, Trainer

from ddpm_lab import ranks
from ddpm_lab.errors import AlreadyReported, UserError, in_own_code
from ddpm_lab.files import write_json, write_sums
from ddpm_lab.models.checkpoint import read_checkpoint, save_checkpoint
from ddpm_lab.models.contract import Model
from ddpm_lab.models.run import load_weights
from ddpm_lab.signals import Stopped, work_begins
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.final import measure, peak_memory, summary, table, written
from ddpm_lab.training.interrupt import Interrupted
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.restored import check_restored
from ddpm_lab.training.results import COMPARED, keep_until, log_final, log_folder

log = logging.getLogger("ddpm_lab")
LAST = Path("checkpoints", "last.ckpt")
OTHERS = ("py.warnings", "lightning.pytorch", "lightning.fabric")
"""Loggers of other libraries."""


class Start(NamedTuple):
    """The checkpoint that training goes on from; of a run that was trained elsewhere, nothing is left to train."""

    checkpoint: Path
    stored: dict[str, Any]
    elsewhere: bool


def read_start(checkpoint: Path, elsewhere: bool, module: TrainingModule, trainer: Trainer) -> Start:
    """The checkpoint to begin from, looked at. Raises UserError where it does not fit this configuration."""
    stored, config = read_checkpoint(checkpoint), module.model.config
    max_steps = config["trainer"]["max_steps"]
    if "optimizer_states" not in stored:
        raise UserError(
            f"resume={checkpoint}: holds weights alone, for ddpm_lab.load() and evaluate.py; training goes on from a "
            "checkpoint with the state of the optimiser, as logger.artifact=checkpoint keeps it"
        )
    load_weights(module.model, stored["state_dict"], checkpoint)
    if not elsewhere and stored["processes"] != trainer.world_size and not config["trainer"]["other_world_size"]:
        raise UserError(
            f"resume={config['resume']}: that run had {stored['processes']} processes and this one has {trainer.world_size}, "
            "so that dropout and rounding would differ: use as many, or trainer.other_world_size=true to go on all the same"
        )
    if stored["global_step"] > max_steps:
        raise UserError(f"trainer.max_steps={max_steps}: {checkpoint} was trained for {stored['global_step']} steps already")
    return Start(checkpoint, stored, elsewhere)


def check_start(start: Start, module: TrainingModule, data: LightningDataModule, trainer: Trainer) -> None:
    """Raises UserError for a checkpoint of other data, and for one whose state of training this run would not save so."""
    data.load_state_dict(start.stored.get(type(data).__qualname__, {}))
    try:
        check_restored(start.stored, module, trainer)
    except ValueError as error:
        raise UserError(f"{start.checkpoint}: a damaged checkpoint: {error}") from error


def take_over(start: Start, folder: Path, module: TrainingModule, trainer: Trainer) -> None:
    """The rows of metrics.csv so far. Of a run that was trained elsewhere those of training alone, and its checkpoint with this
    configuration: Lightning restores it and finds no step to take."""
    rows = start.checkpoint.parent.parent / "metrics.csv"
    keep_until(trainer, start.stored["global_step"], rows, "train/" if start.elsewhere else "")
    if start.elsewhere:
        callbacks = {key: state for key, state in start.stored["callbacks"].items() if key != Checkpoints.__qualname__}
        save_checkpoint(start.stored | {"config": module.model.config, "callbacks": callbacks}, folder / LAST)


def head(module: TrainingModule, trainer: Trainer, parts: Sequence[str], auto: str | None, start: Start | None) -> list[str]:
    """The lines that a log begins with: of which parts the run is made, how large it is, and from where it goes on. `parts`:
    the groups of the model; `auto`: the option that variance=auto stands for."""
    model, config, world = module.model, module.model.config, trainer.world_size
    usual = {"guidance": not model.guided, "time": str(config.get("time", {}).get("_target_")).endswith("Discrete")}
    groups = [name for name in ("data", "model", *parts, "optim") if name in config and not usual.get(name)]
    choices = {group: str(config[group]["_target_"]).rpartition(".")[2] for group in groups}
    if "variance" in choices and model.sample_record().get("variance") is None:
        choices["sampler"] += " (which does not use the variance)"
    parameters, steps = sum(p.numel() for p in model.net.parameters()), config["trainer"]["max_steps"]
    shared = f" on {world} processes" if world > 1 else ""
    lines = [
        "   ".join(f"{group} {name}" for group, name in choices.items()),
        f"{parameters:,} parameters, {steps} steps of batch {config['data']['batch_size']}{shared}, seed {config['seed']}",
    ]
    for name, reason in (("bits/dim", model.no_likelihood), ("samples", model.no_samples)):
        lines += [f"no {name}: {reason}"] if reason else []
    if model.classes is not None:
        lines.append(
            f"conditional on {model.classes.null} classes, each hidden from {model.classes.dropout:.0%} of the examples"
        )
    lines += [f"variance=auto: {auto}, as the paper of this loss has it"] if auto else []
    if start is not None:
        lines.append(f"{'nothing to train: the network of' if start.elsewhere else 'going on from'} {start.checkpoint}")
    return lines


def fit_and_report(
    module: TrainingModule,
    data: LightningDataModule,
    trainer: Trainer,
    folder: Path,
    start: Start | None,
    started: float,
    training_hash: str,
) -> int:
    """Trains, measures, and writes summary.json and the final table. Returns the exit code. `started`: a time.time()."""
    checkpoint = None if start is None else folder / LAST if start.elsewhere else start.checkpoint
    work_begins()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        log.info("measuring …")
        results = measure(trainer, module)
        memory = max(ranks.gather(peak_memory(module.device)))
    except Interrupted as stop:
        log.info("stopped at step %d; go on with: python train.py resume=%s", trainer.global_step, folder)
        return 128 + stop.number
    except (KeyboardInterrupt, SystemExit) as stop:
        log.info("stopped at once; go on from the last checkpoint with: python train.py resume=%s", folder)
        return stop.code if isinstance(stop, Stopped) else 130
    except Exception as error:
        if ranks.is_lost(error):
            raise why_lost(trainer) from error
        raise
    if not trainer.is_global_zero:
        return 0
    content = summary(trainer, module, results, started, memory) | {"training_hash": training_hash}
    if start is not None and start.elsewhere:
        content["trained_in"] = str(module.model.config["run"]["trained_in"])
    write_json(folder / "summary.json", content)
    write_curves(folder, module.eval_model)
    write_sums(folder, COMPARED)
    log.info("\n%s", "\n".join([*table(results, content), "", "written:", *written(folder)]))
    log_final(trainer, results)
    log_folder(trainer)
    return 0


def write_curves(folder: Path, model: Model) -> None:
    """curves.json: what can be plotted of the model, for compare.py."""
    write_json(folder / "curves.json", [curve._asdict() for curve in model.curves()], indent=None)


def why_lost(trainer: Trainer) -> UserError:
    """Why another process has ended: one that a signal has killed, as the system does where memory is short, said nothing."""
    until = time.monotonic() + 3  # what is lost is seen before the system says that the process has ended
    for number, process in enumerate(getattr(trainer.strategy.launcher, "procs", []), 1):
        with suppress(subprocess.TimeoutExpired):
            if process.wait(max(0, until - time.monotonic())) < 0:
                lost = UserError(f"process {number} was ended by signal {-process.returncode}; 9 is often a lack of memory")
                lost.code = 1
                return lost
    return AlreadyReported(1)


def quiet() -> None:
    """What Lightning says about hardware and tips belongs in no calm console. (It sets its own levels when imported.)"""
    for hint in ("does not have many workers", "The `srun` command is available"):
        warnings.filterwarnings("ignore", message=f".*{hint}")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Our lines to the console as they are, and with times to train.log, which also gets other libraries' warnings."""
    console, file = logging.StreamHandler(sys.stdout), logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.setLevel(logging.INFO)
    loggers = [log, *map(logging.getLogger, OTHERS)]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [file], False
    log.addHandler(console)
    logging.captureWarnings(True)
    try:
        yield
    except UserError as error:  # main prints it
        log.removeHandler(console)
        log.error("error: %s", error)
        raise
    except Exception as error:  # whoever reads the console may not keep it
        log.removeHandler(console)
        fail(error, path)
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        file.close()


@contextmanager
def silent(path: Path) -> Iterator[None]:
    """Process 0 speaks for all. Only what fails in this process goes to train.log."""
    for logger in (log, logging.getLogger("py.warnings")):
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    logging.captureWarnings(True)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        log.handlers = [logging.FileHandler(path)]
        fail(error, path)


def fail(error: Exception, path: Path) -> NoReturn:
    """Writes the traceback to the log at `path`, then raises the error; for a user's own code, UserError with one line."""
    log.error("process %d failed:", ranks.rank(), exc_info=error)
    if (own := in_own_code(error)) is None:
        raise error
    raise UserError(f"{own}. The traceback is in {path}") from error
