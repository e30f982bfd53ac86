"""`python train.py`: answers mistakes at once, then composes, trains, measures and reports."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.cli.help import help_for_group, help_text
from ddpm_lab.cli.options import config_dirs
from ddpm_lab.compat import resolve_auto
from ddpm_lab.errors import UserError

# Idle threads soon sleep instead of spinning: on cores that are shared, long spins make small networks 5 to 20 times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

log = logging.getLogger("ddpm_lab")


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""
    try:
        _main(sys.argv[1:])
    except UserError as error:
        _refuse(error)


def _refuse(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _main(argv: list[str]) -> None:
    dirs = config_dirs(argv)
    if "--help" in argv or "-h" in argv:
        groups = [argument for argument in argv if not argument.startswith("-") and "=" not in argument]
        print(help_for_group(groups[0], dirs) if groups else help_text(dirs))
        return
    from ddpm_lab.cli.preflight import preflight

    arms = preflight(argv)
    for arm in arms:
        if arm.config.resume is not None:
            from ddpm_lab.resume import resumed

            resumed(arm.config, arm.overrides)
        elif len(arms) == 1:
            run_folder(arm.config, arm.choices)
    import hydra

    extra = []
    if arms and ("-m" in argv or "--multirun" in argv):
        sweep = Path(arms[0].config.run.root) / "multirun" / _stamp()
        extra = [f"hydra.sweep.dir={_free(sweep)}"]
        print(f"{len(arms)} runs under {sweep}")
    sys.argv = [sys.argv[0], *argv, *extra]
    hydra.main(config_path=str(dirs[0]), config_name="config", version_base="1.3")(job)()


def run_folder(cfg: DictConfig, choices: dict[str, Any]) -> Path:
    """outputs/<experiment>/<name, or date and time>; not made yet. Raises UserError where a named one exists."""
    experiment = choices.get("experiment", "none")
    cfg.run.experiment = cfg.run.experiment or (choices["data"] if experiment == "none" else experiment)
    parent = Path(cfg.run.root) / cfg.run.experiment
    if cfg.run.name is None:
        return _free(parent / _stamp())
    if (parent / cfg.run.name).exists():
        raise UserError(
            f"run.name={cfg.run.name}: {parent / cfg.run.name} exists, and nothing is overwritten: "
            f"choose another name, or go on with it by resume={parent / cfg.run.name}"
        )
    return parent / cfg.run.name


def _stamp() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _free(path: Path) -> Path:
    """`path`, or with a number where another run took it in the same second."""
    numbered = (path.with_name(f"{path.name}_{i}") for i in range(2, 10**6))
    return path if not path.exists() else next(p for p in numbered if not p.exists())


def job(cfg: DictConfig) -> None:
    """One run, as Hydra composed it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from ddpm_lab.resume import resumed

    started, hydra_cfg = time.time(), HydraConfig.get()
    OmegaConf.set_struct(cfg, False)
    checkpoint, folder, auto = None, None, None
    if cfg.resume is not None:
        cfg, checkpoint, folder = resumed(cfg, list(hydra_cfg.overrides.task))
    else:
        auto = resolve_auto(cfg, config_dirs(sys.argv[1:]))
    in_sweep = hydra_cfg.mode == RunMode.MULTIRUN
    if in_sweep and folder is None:
        folder = Path(hydra_cfg.runtime.output_dir)
    folder = folder or run_folder(cfg, hydra_cfg.runtime.choices)
    try:
        code = train(cfg, folder, checkpoint, auto, started)
    except UserError as error:  # Hydra would print a traceback; it lets an exit pass
        if in_sweep and not any(folder.iterdir()):
            folder.rmdir()
        _refuse(error)
    if code:  # a signal meant the whole sweep
        sys.exit(code)


def train(cfg: DictConfig, folder: Path, checkpoint: Path | None, auto: str | None, started: float) -> int:
    """Builds, trains and measures in `folder`, from `checkpoint` where there is one."""
    _quiet()
    from ddpm_lab.compose import build, load_weights
    from ddpm_lab.training.card import schedule_card
    from ddpm_lab.training.checkpoint import read_checkpoint
    from ddpm_lab.training.csv_logger import CsvLogger

    module, data, trainer = build(cfg, folder)
    stored = None if checkpoint is None else read_checkpoint(checkpoint)
    if checkpoint is not None and stored is not None:
        load_weights(module, stored["state_dict"], checkpoint)
    if cfg.trainer.fast_dev_run:
        return _try_out(module, data, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None and stored is not None and isinstance(trainer.logger, CsvLogger):
        trainer.logger.keep_until(stored["global_step"], checkpoint.parent.parent / "metrics.csv")
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    with _log_to(folder / "train.log"):
        _print_header(cfg, folder, checkpoint, auto, module)
        for line in (*data.notes, *schedule_card(module.diffusion, module.loss, data.scaled("train"))):
            log.info("  %s", line)
        return _fit_and_report(module, data, trainer, folder, checkpoint, started)


def _fit_and_report(module: Any, data: Any, trainer: Any, folder: Path, checkpoint: Path | None, started: float) -> int:
    from ddpm_lab.training.final import measure, summary, table, write_json, written
    from ddpm_lab.training.interrupt import Interrupted

    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        log.info("measuring …")
        results = measure(trainer, module)
    except Interrupted as stop:
        log.info("stopped at step %d; go on with: python train.py resume=%s", trainer.global_step, folder)
        return 128 + stop.number
    except (KeyboardInterrupt, SystemExit):
        log.info("stopped at once; go on from the last checkpoint with: python train.py resume=%s", folder)
        return 130
    about = summary(trainer, module, results, started)
    write_json(about, folder / "summary.json")
    log.info("\n%s", "\n".join([*table(results, about), "", "written:", *written(folder)]))
    return 0


def _try_out(module: Any, data: Any, trainer: Any) -> int:
    """fast_dev_run: in a folder that is thrown away."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trainer.logger.path = Path(folder) / "metrics.csv"
        trainer._default_root_dir = folder
        trainer.fit(module, datamodule=data)
    print("fast_dev_run: one training step and one validation ran; nothing was kept")
    return 0


def _print_header(cfg: DictConfig, folder: Path, checkpoint: Path | None, auto: str | None, module: Any) -> None:
    parameters = sum(p.numel() for p in module.net.parameters())
    choices = {
        group: str(cfg[group]._target_).rpartition(".")[2]
        for group in ("data", "schedule", "prediction", "variance", "loss", "sampler", "net")
    }
    log.info("%s", folder)
    log.info("  %s", "   ".join(f"{group} {name}" for group, name in choices.items()))
    log.info(
        "  %s parameters, %d steps of batch %d, seed %d",
        f"{parameters:,}",
        cfg.trainer.max_steps,
        cfg.data.batch_size,
        cfg.seed,
    )
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


def _quiet() -> None:
    """What Lightning says about hardware and tips belongs in no calm console."""
    import lightning  # noqa: F401  sets its own levels when imported

    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
