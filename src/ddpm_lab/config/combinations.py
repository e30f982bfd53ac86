"""Combinations that cannot work, found on the objects themselves: what was chosen is put together, networks without memory."""

import json
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig

from ddpm_lab import processes
from ddpm_lab.config.build import FACTORIES, build_model, current, model_parts, optimiser
from ddpm_lab.config.instantiate import instantiate, node, resolve_target
from ddpm_lab.config.nested import Config, at
from ddpm_lab.config.options import conf_dir, content, options, target
from ddpm_lab.config.unfitted import standing_in
from ddpm_lab.core.types import Incompatible
from ddpm_lab.errors import UserError, require_for_logger
from ddpm_lab.models.compiling import compile_model
from ddpm_lab.training.trainer import check_precisions

APART = ("callbacks", "launcher", "optim", "resume", "run", "seed", "sweep")
"""What takes no part in any combination of parts. (`check_optimiser` holds the optimiser against network and length.)"""
LOCAL = "ddpm_lab.sweeps.local.Local"


def check_combination(cfg: DictConfig | Config, dirs: Sequence[Path], good: set[str] | None = None) -> None:
    """Refuse parts that do not go together, with the options that would. `good` collects what was put together."""
    config = {key: value for key, value in current(cfg).items() if key not in APART}
    good = set() if good is None else good
    if (text := json.dumps(config, sort_keys=True)) in good:
        return
    refusal = _refusal(config)
    if refusal is None:
        good.add(text)
        return
    if not isinstance(refusal, Incompatible):
        raise refusal
    chosen = {group: option_of(group, config[group], dirs) for group in refusal.arguments if group in config}
    advice = ""
    # where an option would do with the values of its file, a value is at fault, which the message names
    if all(_refusal_with(group, option, config, dirs) for group, option in chosen.items()):
        fitting = [" or ".join(fit) for group in chosen if (fit := _fitting(group, chosen[group], config, refusal, dirs))]
        advice = f": use {', or choose '.join(fitting)}" if fitting else ""
    names = " ".join(f"{group}={option}" for group, option in chosen.items())
    raise UserError(f"{names}: {str(refusal).rstrip('.')}{advice}") from refusal


def check_steps(cfg: DictConfig | Config, dirs: Sequence[Path], bound: bool = False) -> None:
    """Refuse samples, or a `bound` on their chain, by steps of which the variance is not known."""
    config = current(cfg)
    variance = resolve_target(config["variance"]["_target_"], "variance") if "variance" in config else None
    if not getattr(variance, "of_unit_steps", False):
        return
    (steps, T), sampler = (config["sampler"]["steps"], config["schedule"]["T"]), instantiate(config, "sampler")
    if steps is not None and steps < T and (bound or sampler.uses(instantiate(config, "variance"))):
        names = [f"{group}={option_of(group, config[group], dirs)}" for group in ("sampler", "variance")]
        others = "nll.chain=full or sampler.steps=null" if bound else "sampler.steps=null, or choose another variance"
        raise UserError(
            f"{' '.join(names)}: log σ² is learned of the step from t to t − 1, and sampler.steps={steps} skip times of T={T}: "
            f"use {others}"
        )


def check_optimiser(cfg: DictConfig | Config, dirs: Sequence[Path]) -> None:
    """Refuse an optimiser whose learning rate does not fit the length of the run, or that cannot train the chosen network."""
    config = current(cfg)
    made, parts = optimiser(config), model_parts(config)
    trained = next((name for name in FACTORIES if name in parts), "model")
    target = node(config, trained).target
    if made.needs and not hasattr(target, made.needs):
        option = option_of("optim", config["optim"], dirs)
        others = [f"optim={name}" for name in options("optim", dirs) if name != option]
        raise UserError(
            f"optim={option} {trained}={option_of(trained, config[trained], dirs)}: {target.__name__} does not name its "
            f"`{made.needs}`, the layers that take data and give the output: use {' or '.join(others)}"
        )


def _refusal(config: Config) -> Incompatible | UserError | None:
    """The first two parts that do not go together, or one that is wrong alone."""
    try:
        assemble(config)
    except Incompatible as error:
        return error
    except UserError as error:
        return error.__cause__ if isinstance(error.__cause__, Incompatible) else error
    return None


def _refusal_with(group: str, option: str, config: Config, dirs: Sequence[Path]) -> Incompatible | UserError | None:
    """The same with an option as its file has it."""
    try:
        return _refusal({**config, group: content(group, option, dirs)})
    except (UserError, TypeError, ValueError) as error:  # no option, or one that needs values of its own
        return UserError(str(error))


def _fitting(group: str, chosen: str, config: Config, refusal: Incompatible, dirs: Sequence[Path]) -> list[str]:
    """The options of a group with which all goes together; if there are none, those with which that refusal does not come."""
    others = {f"{group}={name}": _refusal_with(group, name, config, dirs) for name in options(group, dirs) if name != chosen}
    elsewhere = [
        name for name, other in others.items() if isinstance(other, Incompatible) and other.arguments != refusal.arguments
    ]
    return [name for name, other in others.items() if other is None] or elsewhere


def option_of(group: str, node: Any, dirs: Sequence[Path]) -> str:
    """The option that a node was made with; of options with one target, the one with most values in common."""
    files = options(group, dirs)
    name = (node or {}).get("_target_")
    alike = [
        option for option, path in files.items() if target(path) == name or content(group, option, dirs).get("_target_") == name
    ]

    def in_common(option: str) -> int:
        return sum(node.get(key) == value for key, value in content(group, option, dirs).items())

    return max(alike, key=in_common) if alike else str(name).rpartition(".")[2]


def assemble(config: Config) -> None:
    """Puts together what was chosen, as training will, but for the data, which are not read. Raises Incompatible."""
    data = instantiate(config, "data")
    extractor = resolve_target(config["metrics"]["_target_"], "metrics")
    if hasattr(extractor, "check"):  # whether it takes such data
        extractor.check(data)
    _check_model(config, data)
    _check_average(config)
    for package in getattr(resolve_target(config["logger"]["_target_"], "logger"), "packages", ()):
        require_for_logger(package)
    try:
        check_precisions(config["trainer"]["precision"], config["trainer"]["sample_precision"])
    except ValueError as error:
        raise UserError(f"trainer: {error}") from error


def _check_average(config: Config) -> None:
    """Whether it goes with the length of the run."""
    average: Any = None if config["ema"] is None else instantiate(config, "ema")
    if hasattr(average, "check"):
        try:
            average.check(config["trainer"]["max_steps"])
        except ValueError as error:
            raise UserError(f"ema.{error}; or another trainer.max_steps") from error


def known_side(config: Config, data: Any) -> int | None:
    """Of the images, where it is known before they are read."""
    side = getattr(data, "known_side", None)
    return config["data"].get(side) if isinstance(side, str) else side


def _check_model(config: Config, data: Any) -> None:
    """Networks are made without memory, for images of one channel. Where the size of images is not known before they are read,
    none is made."""
    size = known_side(config, data)
    vectors = getattr(data, "gives", None) == "vectors"

    def net(**given: Any) -> torch.nn.Module:
        if size is None and not vectors:
            return Unsized()
        with torch.device("meta"):
            return instantiate(config, "net", **given)

    counts = [1] * (getattr(data, "classes", None) or 1) if getattr(data, "conditional", False) else None
    shape = (2,) if vectors else (1, size or 1, size or 1)
    model = build_model({**standing_in(config), "seed": 0}, shape, data.levels, net, counts)
    if compile := config["trainer"]["compile"]:
        compile_model(model, compile, "trainer.compile")


class Unsized(torch.nn.Identity):
    """In place of a network for images whose size is not known yet."""

    leave = torch.nn.Identity.forward

    def features(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return x


def resolve_auto(cfg: DictConfig | dict[str, Any], dirs: Sequence[Path] | None = None) -> str | None:
    """Put in place of `variance=auto` the variance that the loss's paper used, and return its option's name."""
    if (cfg.get("variance") or {}).get("_target_") != "auto":
        return None
    dirs = [conf_dir()] if dirs is None else dirs
    loss, files = resolve_target(cfg["loss"]["_target_"], "loss"), options("variance", dirs)
    variance = getattr(loss, "paper_variance", None)
    dotted = variance and f"{variance.__module__}.{variance.__qualname__}"
    name = next((option for option, path in files.items() if dotted and target(path) == dotted), None)
    if name is None:
        listed = ", ".join(f"variance={option}" for option in files if option != "auto")
        raise UserError(f"variance=auto: {loss.__name__} does not name the variance of its paper; choose one of {listed}")
    cast(MutableMapping[str, Any], cfg)["variance"] = content("variance", name, dirs)
    return name


def check_place(values: Mapping[str, Any], sweep: bool) -> None:
    """What a single key's rule cannot say: where runs and their processes have a place."""
    devices, nodes, name = (at(values, key) for key in ("trainer.devices", "trainer.num_nodes", "run.name"))
    ready, experiment = at(values, "sweep.arms") or [], at(values, "run.experiment")
    launched = not sweep and at(values, "launcher._target_") not in (None, LOCAL)
    several = at(values, "trainer.fast_dev_run") is True and (devices, nodes) != (1, 1)
    alone = nodes != 1 and not processes.in_torchrun() and not processes.in_slurm()
    spread, placed, shared = (sweep and wrong for wrong in (nodes != 1, experiment is not None, name is not None))
    refusals = {
        f"trainer.num_nodes={nodes}: a sweep (-m) stays on one machine; start these runs one by one, without -m": spread,
        f"this experiment is a sweep ({'; '.join(ready)}): add -m, or sweep.arms=[] for its base alone": ready and not sweep,
        "this experiment chooses a launcher, which is for a sweep: add -m, or launcher=local": launched,
        "trainer.fast_dev_run=true tries one step in one process: use trainer.devices=1 trainer.num_nodes=1": several,
        f"trainer.num_nodes={nodes}: start this by torchrun or srun on each of {nodes} machines; alone it would wait": alone,
        f"run.experiment={experiment}: the runs of a sweep (-m) go to <run.root>/multirun/<sweep.name>: leave it out": placed,
        f"run.name={name}: the runs of a sweep (-m) would share this folder; leave run.name out, or set run.root": shared,
    }
    if refusal := next((message for message, wrong in refusals.items() if wrong), None):
        raise UserError(refusal)
