"""What Lightning restores of a checkpoint, held against what this run would save, before any file is written."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from ddpm_lab.models.snapshots import LISTED
from ddpm_lab.plain import brief
from ddpm_lab.training.callbacks.progress import LossQuartiles
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.posthoc import PostHoc


def check_restored(stored: Mapping[str, Any], module: TrainingModule, trainer: Trainer) -> None:
    """Raises ValueError that names the first entry that this run would not save so."""
    made, steps = module.configure_optimizers(), stored["global_step"]
    schedulers = [made["lr_scheduler"]["scheduler"].state_dict()] if "lr_scheduler" in made else []
    trains_all = steps > 0 and not module.model.trains_in_phases and type(module.model.net).__module__.startswith("ddpm_lab.")
    _check_optimizer(stored["optimizer_states"], made["optimizer"], steps, trains_all)
    _check_form(stored["lr_schedulers"], schedulers, "lr_schedulers")
    for i, (state, fresh) in enumerate(zip(stored["lr_schedulers"], schedulers, strict=True)):
        _check(state["last_epoch"] == steps, f"lr_schedulers.{i}.last_epoch", state["last_epoch"], str(steps))
        rates = fresh["base_lrs"]
        _check(state["base_lrs"] == rates, f"lr_schedulers.{i}.base_lrs", state["base_lrs"], brief(rates))
    groups, rate = stored["optimizer_states"][0]["param_groups"], module.optim.rate
    _check_rates(groups, made["optimizer"], 1.0 if rate is None else rate(steps))
    _check_form(stored["loops"], {"fit_loop": trainer.fit_loop.state_dict()}, "loops")
    configs = (stored["config"], module.model.config)
    if not any(config["trainer"].get(name) for config in configs for name in ("limit_train_batches", "overfit_batches")):
        _check_position(stored["loops"]["fit_loop"], steps * trainer.accumulate_grad_batches)
    _check_callbacks(stored, module, trainer)
    _check_weights(stored["state_dict"], module.model, "state_dict")
    names, state = module.model.training_state().keys(), stored["timesteps"]
    alike = state.keys() == names and all(isinstance(value, Tensor) for value in state.values())
    _check(alike, "timesteps", state, f"tensors by name: {', '.join(names) or 'none'}")
    try:
        module.model.load_training_state(state)
    except ValueError as error:
        raise ValueError(f"timesteps: {error}") from error


def _check_position(loop: Mapping[str, Any], batches: int) -> None:
    """In the data, after so many batches."""
    position = {"combined_loader": [{"position": batches}]}
    _check(loop["state_dict"] == position, "loops.fit_loop.state_dict", loop["state_dict"], str(position))
    taken = loop["epoch_loop.batch_progress"]["current"]["ready"]
    _check(taken == batches, "loops.fit_loop.epoch_loop.batch_progress.current.ready", taken, str(batches))


def _check_callbacks(stored: Mapping[str, Any], module: TrainingModule, trainer: Trainer) -> None:
    """Averages of weights, and the state of callbacks of this package that the run had."""
    nodes = (stored["config"].get("callbacks") or {}).values()
    had = {node["_target_"].rpartition(".")[2] for node in nodes if node}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        begins_anew = isinstance(callback, Checkpoints)  # where another run trained the weights, or another number is watched
        name, fresh = callback.state_key, {"best": None} if begins_anew else callback.state_dict()
        if isinstance(callback, EMA):
            for key in callback.keys:
                _check_weights(stored.get(key), module.model.net, key)
            _check(not isinstance(callback, PostHoc) or LISTED in stored, LISTED, None, "a mapping of steps to sha256")
            continue
        if isinstance(callback, LossQuartiles):
            fresh = {"sums": _like_sums(stored["callbacks"].get(name), stored["processes"])}
        ours = fresh and type(callback).__module__.startswith("ddpm_lab.")
        if ours and (name in stored["callbacks"] or (name in had and not begins_anew)):
            _check_form(stored["callbacks"].get(name), fresh, f"callbacks.{name}")


def _like_sums(state: Any, processes: int) -> Tensor:
    """Four columns for each process; four in all, as versions before 0.2 had them, if there are four."""
    one, sums = torch.zeros(2, 4), state.get("sums") if isinstance(state, Mapping) else None
    return one if isinstance(sums, Tensor) and sums.shape == one.shape else one.repeat(1, processes)


def _check_optimizer(states: list[Any], optimizer: Optimizer, steps: int, trains_all: bool) -> None:
    """Settings are those of the configuration, but for the learning rate, which a schedule may have changed. `trains_all`:
    every parameter had a gradient."""
    fresh = optimizer.state_dict()
    _check_form(states, [fresh | {"state": {}}], "optimizer_states")
    for i, (group, settings) in enumerate(zip(states[0]["param_groups"], fresh["param_groups"], strict=True)):
        for name in settings.keys() & group.keys() - {"lr", "foreach", "fused"}:
            value = tuple(group[name]) if isinstance(settings[name], tuple) else group[name]
            _check(value == settings[name], f"optimizer_states.0.param_groups.{i}.{name}", group[name], brief(settings[name]))
    kept, groups = states[0]["state"], optimizer.param_groups
    sure = [group for group in groups if "betas" in group or "ns_steps" in group]  # of others some keep nothing
    needed = sum(len(group["params"]) for group in sure) if trains_all else 0
    _check(len(kept) >= needed, "optimizer_states.0.state", list(kept), f"that of {needed} parameters")
    _check_kept(kept, [group["params"] for group in groups], steps)


def _check_kept(kept: Mapping[Any, Any], groups: Sequence[Sequence[Tensor]], steps: int) -> None:
    """What is kept of a parameter are tensors of its shape, and numbers: the same of all that are in one group."""
    parameters = [(parameter, i) for i, group in enumerate(groups) for parameter in group]
    firsts: dict[int, set[str]] = {}
    for index, entry in kept.items():
        key = f"optimizer_states.0.state.{index}"
        _check(type(index) is int and 0 <= index < len(parameters), key, index, f"0 to {len(parameters) - 1}")
        _check(isinstance(entry, Mapping), key, entry, "a mapping")
        parameter, group = parameters[index]
        for name, value in entry.items():
            number = isinstance(value, Tensor) and value.numel() == 1
            like = torch.zeros(value.shape if number else parameter.shape)
            _check_form(value, None if value is None else like, f"{key}.{name}")
        names = {name for name in entry if entry[name] is not None}
        first = firsts.setdefault(group, names)
        _check(names == first, key, sorted(names), ", ".join(sorted(first)))
        taken = entry.get("step") or 0
        _check(0 <= taken <= steps, f"{key}.step", taken, f"0 to {steps}")


def _check_rates(groups: Sequence[Mapping[str, Any]], optimizer: Optimizer, share: float) -> None:
    """The learning rates are those of this step, up to the rounding of another machine. `share`: of the largest."""
    for i, (stored, group) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        rate, key = share * group.get("initial_lr", group["lr"]), f"optimizer_states.0.param_groups.{i}.lr"
        _check(math.isclose(stored["lr"], rate, rel_tol=1e-9, abs_tol=1e-15), key, stored["lr"], brief(rate))


def _check_weights(stored: Any, net: nn.Module, key: str) -> None:
    """Parameters are finite. Buffers may have infinities, as a mask has."""
    fresh, buffers = net.state_dict(), dict(net.named_buffers())
    _check_form(stored, {name: weight for name, weight in fresh.items() if name not in buffers}, key)
    for name in fresh.keys() & buffers.keys():
        buffer, shape = stored.get(name), fresh[name].shape
        _check(
            isinstance(buffer, Tensor) and buffer.shape == shape,
            f"{key}.{name}",
            buffer,
            f"numbers of the shape {tuple(shape)}",
        )


def _check_form(stored: Any, fresh: Any, key: str) -> None:
    """Raises ValueError where a stored value has another form than what this run would save: type, names, length, shape; and
    where a number is not finite. A name that is missing is one that only later versions of libraries have, if what it stands
    for is off or private."""
    if isinstance(fresh, Mapping):
        _check(isinstance(stored, Mapping), key, stored, "a mapping")
        for name, value in fresh.items():
            if name in stored or not (value is None or value is False or str(name).startswith("_")):
                _check_form(stored.get(name), value, f"{key}.{name}")
    elif isinstance(fresh, list | tuple):
        _check(isinstance(stored, list | tuple) and len(stored) == len(fresh), key, stored, f"a list of {len(fresh)}")
        for i, (item, value) in enumerate(zip(stored, fresh, strict=True)):
            _check_form(item, value, f"{key}.{i}")
    elif isinstance(fresh, Tensor):
        alike = isinstance(stored, Tensor) and stored.shape == fresh.shape
        _check(alike and bool(stored.isfinite().all()), key, stored, f"finite numbers of the shape {tuple(fresh.shape)}")
    elif isinstance(fresh, bool | str):
        _check(type(stored) is type(fresh), key, stored, f"a {type(fresh).__name__}")
    elif isinstance(fresh, int | float):
        number = isinstance(stored, float if isinstance(fresh, float) else int) and not isinstance(stored, bool)
        _check(
            number and abs(stored) < 2**63 and (stored >= 0 or fresh < 0),
            key,
            stored,
            "a number that is finite and not negative",
        )
    else:
        _check(isinstance(stored, float | None), key, stored, "a number or null")


def _check(right: bool, key: str, value: object, allowed: str) -> None:
    if not right:
        shown = brief(value)
        if isinstance(value, Tensor):
            shown = f"{'' if value.isfinite().all() else 'not all finite, '}shape {tuple(value.shape)}"
        raise ValueError(f"{key}={shown}: allowed is {allowed}")
