"""The composition root: from a configuration to objects. With cli/ the only code that knows Hydra."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import ranks
from ddpm_lab.config.instantiate import instantiate, resolve_target
from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.data.memory import InMemory
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.run import Run
from ddpm_lab.training.loggers import with_csv
from ddpm_lab.training.module import DiffusionModule

NOT_TRAINED = ("callbacks", "launcher", "logger", "metrics", "names", "resume", "run", "sampler", "sweep")
"""Keys of a configuration that change what is measured, shown or kept, and no weight."""
PLACEMENT = (
    "_target_", "accelerator", "channels_last", "compile", "devices", "fast_dev_run", "log_every", "num_nodes",
    "other_world_size", "sample_precision", "validate_every",
)  # fmt: skip
"""Of `trainer`, what says where and how fast; the rest (steps, precision, pieces of a batch) is training."""


class Built(NamedTuple):
    module: DiffusionModule
    data: InMemory
    trainer: Trainer


def build(cfg: DictConfig, run_dir: Path) -> Built:
    """Everything a run needs. Reads the data; writes nothing. Raises UserError for what does not fit."""
    data: InMemory = instantiate(cfg, "data")
    with ranks.by_first():  # it may have to download and convert
        if ranks.rank() == 0:
            data.setup()
    data.setup()  # again does nothing
    data.seed, data.steps = cfg.seed, 1 if cfg.trainer.fast_dev_run else cfg.trainer.max_steps
    module = build_module(cfg, data.shape, data.levels)
    extractor = instantiate(cfg, "metrics", data=data)
    logger = with_csv(instantiate(cfg, "logger", run_dir=run_dir), run_dir)
    callbacks = [instantiate(cfg, f"callbacks.{name}", extractor=extractor) for name in cfg.callbacks]
    callbacks.append(instantiate(cfg, "ema"))
    trainer = instantiate(cfg, "trainer", module=module, callbacks=callbacks, logger=logger, run_dir=run_dir)
    parts = trainer.world_size * trainer.accumulate_grad_batches
    if cfg.data.batch_size % parts:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size}: the whole batch is shared by {trainer.world_size} processes in "
            f"{trainer.accumulate_grad_batches} pieces each, so it must be a multiple of {parts}"
        )
    return Built(module, data, trainer)


def build_module(cfg: DictConfig, shape: tuple[int, ...], levels: int | None) -> DiffusionModule:
    """The module for data of `shape`, with initial weights fixed by the seed."""
    schedule, prediction, variance = (instantiate(cfg, key) for key in ("schedule", "prediction", "variance"))
    sampler = instantiate(cfg, "sampler")
    try:
        diffusion = GaussianDiffusion(schedule, prediction, variance, levels)
        sampler.chain(schedule)
    except ValueError as error:
        raise UserError(str(error)) from error
    net = _network(cfg, shape, diffusion.variance.n_outputs)
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return DiffusionModule(
        net, diffusion, instantiate(cfg, "loss"), instantiate(cfg, "timesteps"), instantiate(cfg, "optim"), sampler,
        shape, cfg.seed, config,  # type: ignore[arg-type]
    )  # fmt: skip


def training_parts(cfg: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """What of a configuration training depends on. The variance is part of it only where the loss trains it or weighs by it, or
    where the network must supply it."""
    plain = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    assert isinstance(plain, dict)
    parts = {str(key): value for key, value in plain.items() if key not in NOT_TRAINED}
    parts["trainer"] = {key: value for key, value in plain["trainer"].items() if key not in PLACEMENT}
    loss, variance = (resolve_target(plain[key]["_target_"], key) for key in ("loss", "variance"))
    if not loss.trains_variance and variance.n_outputs == 1:  # type: ignore[attr-defined]
        del parts["variance"]
    return parts


def training_identity(cfg: DictConfig | dict[str, Any]) -> str:
    """A hash of `training_parts`: configurations that share it train the same weights."""
    return hashlib.sha256(json.dumps(training_parts(cfg), sort_keys=True).encode()).hexdigest()[:16]


def _network(cfg: DictConfig, shape: tuple[int, ...], n_outputs: int) -> torch.nn.Module:
    """With initial weights fixed by the seed. A second output widens one layer, and would shift the random numbers of all that
    are made after it: the others are those of the network with one, so that runs which differ in the variance start alike."""

    def drawn(outputs: int) -> torch.nn.Module:
        size = shape[-1] if len(shape) == 3 else None
        with torch.random.fork_rng():
            torch.manual_seed(rng.address(cfg.seed, "init"))
            return instantiate(cfg, "net", in_channels=shape[0], out_channels=shape[0] * outputs, size=size)

    net = drawn(n_outputs)
    if n_outputs > 1:
        weights = net.state_dict()
        plain = drawn(1).state_dict()
        alike = {name: plain[name] for name, own in weights.items() if name in plain and plain[name].shape == own.shape}
        net.load_state_dict(weights | alike)
    return net


def schedule_of(config: dict[str, Any]) -> NoiseSchedule:
    """The one that a run's configuration describes."""
    return instantiate(OmegaConf.create({"schedule": config["schedule"]}), "schedule")


def load(run: str | Path, weights: str | None = None) -> Run:
    """A trained run from its folder (its last checkpoint) or from one checkpoint. `weights`: "ema", "raw", or one of several
    averages, as "ema/0.999"; by default the (first) EMA where there is one. Raises UserError for what is not there, not
    readable, or of another network."""
    path = Path(run).expanduser()
    checkpoint = read_checkpoint(path / "checkpoints" / "last.ckpt" if path.is_dir() else path)
    cfg = OmegaConf.create(checkpoint["config"])
    assert isinstance(cfg, DictConfig)
    module = build_module(cfg, tuple(checkpoint["shape"]), checkpoint["levels"])
    averages = [key for key in checkpoint if key.startswith("ema/")]
    allowed = [*(["ema"] if averages else []), "raw", *averages]
    if weights not in (*allowed, None):
        raise UserError(f"weights={weights}: this checkpoint has {', '.join(allowed)}.")
    default = averages[0] if averages else "raw"
    chosen = default if weights in ("ema", None) else weights
    state = checkpoint["state_dict"]
    if chosen != "raw":
        state = {f"net.{name}": value for name, value in checkpoint[chosen].items()}
    load_weights(module, state, path)
    if OmegaConf.select(cfg, "trainer.channels_last"):  # as the run itself sampled and measured
        module.net.to(memory_format=torch.channels_last)
    return Run(module.eval(), chosen, checkpoint["global_step"])


def load_weights(module: DiffusionModule, state: dict[str, torch.Tensor], source: Path) -> None:
    """Raises UserError that names the first weight that does not fit."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(own.keys() | theirs.keys()):
        if own.get(name) != theirs.get(name):
            raise UserError(
                f"{source}: holds the weights of another network: {name} is {theirs.get(name, 'missing')} there and "
                f"{own.get(name, 'missing')} in the network of this configuration."
            )
    module.load_state_dict(state)
