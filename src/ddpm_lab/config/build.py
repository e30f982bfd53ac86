"""The composition root: from a configuration to objects."""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_type_hints

import torch

from ddpm_lab import ranks
from ddpm_lab.config.instantiate import instantiate, node, resolve_target
from ddpm_lab.config.nested import Config, plain
from ddpm_lab.core.batch import Classes
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint, weights_sha256
from ddpm_lab.models.contract import Model
from ddpm_lab.models.run import Run, opened
from ddpm_lab.plain import as_earlier, without_later

if TYPE_CHECKING:
    from lightning import Trainer
    from omegaconf import DictConfig

    from ddpm_lab.data.memory import InMemory
    from ddpm_lab.training.module import TrainingModule
    from ddpm_lab.training.optim import Optimiser

DIFFUSION = {"_target_": "ddpm_lab.models.diffusion.Diffusion"}
"""What `model` is in configurations of versions before 0.2."""
NOT_TRAINED = ("base", "callbacks", "experiment", "launcher", "logger", "metrics", "names", "resume", "run", "sweep")
"""Keys at the root of every configuration that change what is measured, shown or kept, and no weight."""
COMMON = (*NOT_TRAINED, "data", "ema", "imported", "model", "optim", "seed", "trainer")
"""Keys at the root of every configuration. All other groups are parts of a model."""
FACTORIES = ("head", "net")
"""Groups of which a model gets a factory, as it says itself how wide they are."""
PLACEMENT = (
    "_target_",
    "accelerator",
    "channels_last",
    "compile",
    "data_on_device",
    "devices",
    "fast_dev_run",
    "log_every",
    "num_nodes",
    "other_world_size",
    "sample_precision",
    "validate_every",
)
"""Of `trainer`, what says where and how fast; the rest (steps, precision, pieces of a batch) is training."""


class Built(NamedTuple):
    module: "TrainingModule"
    data: "InMemory"
    trainer: "Trainer"


def build(cfg: "DictConfig", run_dir: Path) -> Built:
    """Everything a run needs. Reads the data; writes nothing. Raises UserError for what does not fit."""
    from ddpm_lab.training.callbacks.frechet import FrechetCurve
    from ddpm_lab.training.loggers import with_csv
    from ddpm_lab.training.module import TrainingModule

    config = current(cfg)
    data = _data(config)
    classes = data.of_classes()
    model = build_model(config, data.shape, data.levels, class_counts=classes and classes.counts)
    module = TrainingModule(model, optimiser(config, model.net))
    extractor = instantiate(config, "metrics", data=data)
    logger = with_csv(instantiate(config, "logger", run_dir=run_dir), run_dir)
    names = [name for name, node in (config.get("callbacks") or {}).items() if node is not None]
    callbacks = [instantiate(config, f"callbacks.{name}", extractor=extractor) for name in names]
    for callback in callbacks:
        if isinstance(callback, FrechetCurve):
            callback.check(module.model)
    callbacks += [instantiate(config, "ema")] if config.get("ema") is not None else []
    trainer = instantiate(config, "trainer", module=module, callbacks=callbacks, logger=logger, run_dir=run_dir)
    parts = trainer.world_size * trainer.accumulate_grad_batches
    if config["data"]["batch_size"] % parts:
        raise UserError(
            f"data.batch_size={config['data']['batch_size']}: the whole batch is shared by {trainer.world_size} processes in "
            f"{trainer.accumulate_grad_batches} pieces each, so it must be a multiple of {parts}"
        )
    return Built(module, data, trainer)


def _data(config: Config) -> "InMemory":
    data: InMemory = instantiate(config, "data")
    with ranks.by_first():  # it may have to download and convert
        if ranks.rank() == 0:
            data.setup()
    data.setup()  # again does nothing
    trainer = config["trainer"]
    data.on_device = trainer.get("data_on_device", False)
    data.serve(config["seed"], 1 if trainer["fast_dev_run"] else trainer["max_steps"])
    return data


def optimiser(config: Config, net: torch.nn.Module | None = None) -> "Optimiser":
    """A choice of ours, told how long the run is, or a class of torch. Raises UserError, also where it cannot train `net`."""
    from ddpm_lab.training.optim import Stock

    target, values = node(config, "optim")
    stock, steps = isinstance(target, type) and issubclass(target, torch.optim.Optimizer), config["trainer"]["max_steps"]
    try:
        made = Stock(cast(Any, target), **values) if stock else instantiate(config, "optim", steps=steps)
        if net is not None:
            made.check(net)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"optim: {error}") from error
    return made


def build_model(
    cfg: "DictConfig | Config",
    shape: tuple[int, ...],
    levels: int | None,
    net: Callable[..., torch.nn.Module] | None = None,
    class_counts: Sequence[int] | None = None,
) -> Model:
    """The model for data of `shape`, with initial weights fixed by the seed. It gets what its constructor names: the object of
    each group, and of `net` a factory, by default that of the configuration. `class_counts`: of conditional data the training
    data of each class."""
    config = current(cfg)
    made = {
        name: instantiate(config, name) if name not in FACTORIES else net if net and name == "net" else factory(config, name)
        for name in model_parts(config)
        if name in config
    }
    _check_kinds(config, made)
    of_data = {"shape": shape, "levels": levels, "seed": config["seed"], "config": config, **_classes(config, class_counts)}
    target, values = node(config, "model")
    try:
        return target(**values, **made, **of_data)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def factory(config: Config, name: str) -> Callable[..., torch.nn.Module]:
    """What makes the network of a group; of a run with a base its `net` is there already, with its weights."""
    if name == "net" and config.get("base") is not None:
        return lambda **_: frozen(config)
    return functools.partial(instantiate, config, name)


def frozen(config: Config, base: Run | None = None) -> torch.nn.Module:
    """The network on which a head is trained: that of the configuration's base, or of `base`, which is at hand. Raises
    UserError where its weights are not those that the head was trained on."""
    run, expected = base or _base_of(config), config["model"]["sha256"]
    if (found := weights_sha256(run.net)) != expected:
        raise UserError(
            f"the network has {run.weights} weights of sha256 {found[:12]}, and this head was trained on those of sha256 "
            f"{expected[:12]}, {config['model']['weights']} of {config['base']}: train a head for this network"
        )
    return run.net


def _base_of(config: Config) -> Run:
    """The run that a head was trained on. Raises UserError where it is not there any more."""
    if not Path(config["base"]).is_dir():
        raise UserError(
            f"base={config['base']}: there is no such run any more; ckpt=RUN variance.head=FOLDER measures this head on it"
        )
    return load(config["base"], config["model"]["weights"])


def _classes(config: Config, counts: Sequence[int] | None) -> dict[str, Classes]:
    """What a model is given of conditional data. Raises UserError for a model or a network that takes no classes."""
    if counts is None:
        return {}
    for group, needs in (("model", "classes in its constructor"), ("net", "classes in its constructor, labels in forward()")):
        if group in config and not _takes_classes(node(config, group).target):
            name = config[group]["_target_"].rpartition(".")[2]
            raise UserError(
                f"data.conditional=true: {name} takes no classes; give it {needs}, or train with data.conditional=false"
            )
    return {"classes": Classes(tuple(counts), config["data"].get("label_dropout", 0.0))}


def _takes_classes(target: Callable[..., Any]) -> bool:
    """Whether classes reach something that names them: a constructor hands its further keywords to the next above it."""
    above = (
        [vars(one)["__init__"] for one in target.__mro__ if "__init__" in vars(one)] if isinstance(target, type) else [target]
    )
    for called in above:
        parameters = inspect.signature(called).parameters.values()
        if any(p.name == "classes" for p in parameters):
            return True
        if not any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters):
            return False
    return True


def _check_kinds(config: Config, made: Mapping[str, Any]) -> None:
    """Raises UserError for a part that is not of the class or protocol that the model's constructor names."""
    target = node(config, "model").target
    kinds = get_type_hints(target.__init__ if isinstance(target, type) else target)
    for name, part in made.items():
        kind = kinds.get(name)
        if isinstance(kind, type) and not isinstance(part, kind):
            raise UserError(f"{name}: {config[name]['_target_']} makes a {type(part).__name__}, and no {kind.__name__}")


def model_parts(cfg: "DictConfig | Config") -> list[str]:
    """The groups of which the chosen model is made: those that its constructor names and that it is not given as values. One
    that has a default may be missing, as `guidance` is in configurations of earlier versions."""
    config = current(cfg)
    target, values = node(config, "model")
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [
        name
        for name, p in inspect.signature(target).parameters.items()
        if p.kind == positional and name not in values and (p.default is inspect.Parameter.empty or name in config)
    ]


def unused_parts(cfg: "DictConfig | Config") -> list[str]:
    """Groups of a configuration that the chosen model has no use for."""
    config = current(cfg)
    used = model_parts(config)
    return [name for name in config if name not in (*COMMON, *used)]


def check_parts(cfg: "DictConfig | Config") -> None:
    """Raises UserError for a group of a stored configuration that reaches nothing: training leaves such groups out."""
    if unknown := unused_parts(cfg):
        made_of = ", ".join([*COMMON, *model_parts(cfg)])
        raise UserError(f"{unknown[0]}: a configuration of this model has no such group; allowed is {made_of}")


def training_parts(cfg: "DictConfig | Config") -> dict[str, Any]:
    """What of a configuration training depends on; the model says which of its parts are not among them."""
    config = current(cfg)
    parts = {name: value for name, value in config.items() if name not in NOT_TRAINED}
    parts["data"] = as_earlier(config["data"])
    parts |= {"optim": without_later(config["optim"])} if "optim" in config else {}
    parts["trainer"] = {key: value for key, value in config["trainer"].items() if key not in PLACEMENT}
    named = model_parts(config)
    targets = {name: resolve_target(config[name]["_target_"], name) for name in named if name in config}
    model = cast(type[Model], node(config, "model")[0])
    left_out = {*unused_parts(config), *model.untrained_parts(targets)}
    return {name: value for name, value in parts.items() if name not in left_out}


def training_identity(cfg: "DictConfig | Config") -> str:
    """A hash of `training_parts`: configurations that share it train the same weights."""
    return hashlib.sha256(json.dumps(training_parts(cfg), sort_keys=True).encode()).hexdigest()[:16]


def load(run: str | Path, weights: str | None = None, base: Run | None = None) -> Run:
    """A trained run from its folder (its last checkpoint) or from one checkpoint. `weights`: "ema", "raw", or one of several
    averages, as "ema/0.999" (of a run with ema=posthoc of any length σ_rel, as "ema/0.07"), or "given", of an import of which
    it is not known; by default the (first) EMA where there is one. `base`: of a head, the run whose network it is on, where
    that is at hand. Raises UserError for what is not there, not readable, or of another network."""
    path = Path(run).expanduser()
    last = path / "checkpoints" / "last.ckpt"
    if path.is_dir() and not last.parent.is_dir():
        raise UserError(f"{path.absolute()}: not a run folder (it has no checkpoints/last.ckpt)")
    checkpoint = read_checkpoint(last if path.is_dir() else path)
    try:
        network = frozen(checkpoint["config"], base) if checkpoint["config"].get("base") is not None else None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    try:
        check_parts(checkpoint["config"])
        of_data = tuple(checkpoint["shape"]), checkpoint["levels"]
        net = None if network is None else lambda **_: network
        model = build_model(checkpoint["config"], *of_data, net, checkpoint.get("class_counts"))
    except UserError as error:
        raise UserError(f"{path}: its configuration makes no model: {error}") from error
    return opened(model, checkpoint, weights, last if path.is_dir() else path)


def with_optimal(cfg: Config) -> bool:
    """Whether the times of the sampler are those that are measured."""
    return (cfg.get("sampler") or {}).get("spacing") == "optimal"


def unmeasured(cfg: Config) -> Config:
    """With other times, as many, in place of those that are still to be measured."""
    return {**cfg, "sampler": {**cfg["sampler"], "spacing": "trailing"}} if with_optimal(cfg) else cfg


def current(cfg: "DictConfig | Config") -> dict[str, Any]:
    """A configuration as plain containers, with what versions before 0.2 called otherwise: without `model` it is of a diffusion
    model, and `callbacks.frechet.every` is that of `callbacks.frechet_curve`."""
    config: dict[str, Any] = plain(cfg)
    if "model" not in config:
        config = {**config, "model": dict(DIFFUSION)}
    frechet: dict[str, Any] = (config.get("callbacks") or {}).get("frechet") or {}
    if "every" in frechet:
        curve = frechet | {"_target_": "ddpm_lab.training.callbacks.frechet.FrechetCurve"}
        rest = {key: value for key, value in frechet.items() if key != "every"}
        config = config | {"callbacks": config["callbacks"] | {"frechet": rest, "frechet_curve": curve}}
    return config
