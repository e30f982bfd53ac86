"""What of a configuration the chosen model has no use for: left out, and refused where it was typed."""

from collections.abc import Iterable
from typing import cast

from omegaconf import DictConfig, open_dict

from ddpm_lab.compare.measures import NumberKind, known_measure
from ddpm_lab.config.build import current, model_parts, unused_parts
from ddpm_lab.config.instantiate import resolve_target
from ddpm_lab.config.nested import Config, at
from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError
from ddpm_lab.models.contract import Model

NEEDS = {NumberKind.BOUND: "likelihood", NumberKind.SAMPLES: "samples"}
"""What a kind of number is measured of."""


def drop_unused(cfg: DictConfig, typed: Iterable[str] = ()) -> None:
    """Leave out groups that are no part of the chosen model, and of callbacks that were left out what an experiment sets; and
    callbacks that ask for what the model lacks. Raises UserError for keys of such groups and callbacks that were typed."""
    config = current(cfg)
    unused = unused_parts(config)
    model = cast(type[Model], resolve_target(config["model"]["_target_"], "model"))
    for name in unused:
        if key := next((key for key in typed if key.partition(".")[0] == name), None):
            made_of = ", ".join(model_parts(config)) or "no other group"
            raise UserError(f"{key}: {cfg.model._target_.rpartition('.')[2]} has no {name}; it is made of {made_of}")
        with open_dict(cfg):
            cfg.pop(name)
    for name, callback in (cfg.get("callbacks") or {}).items():
        if callback is not None and ("_target_" not in callback or _lacking(cfg, name, typed)):
            cfg.callbacks[name] = None
        elif callback is not None:
            _drop_settings(cfg, model, name, typed)


def _lacking(cfg: DictConfig, name: str, typed: Iterable[str]) -> bool:
    """Whether a callback asks for samples, or a likelihood, that the model has not. Raises UserError where it was typed."""
    callback = resolve_target(cfg.callbacks[name]._target_, f"callbacks.{name}")
    lacks = without(cfg, needs) if (needs := getattr(callback, "needs", None)) else None
    if lacks and (key := next((key for key in typed if f"{key}.".startswith(f"callbacks.{name}.")), None)):
        raise UserError(f"{key}: {lacks}; leave it out")
    return bool(lacks)


def without(config: DictConfig | Config, needs: str) -> str | None:
    """That the chosen model has no samples, or no likelihood, with the reason; None where it has, or none was chosen."""
    if (target := at(config, "model._target_")) is None:
        return None
    model = resolve_target(target, "model")
    reason = getattr(model, f"no_{needs}", "")
    return f"{model.__name__} has no {needs}: {reason}" if reason else None


def unmeasurable(config: Config, key: str) -> str | None:
    """Why the chosen model cannot have the number of this key; None where it may."""
    measure = known_measure(key)
    needs = NEEDS.get(measure.kind) if measure else None
    return without(config, needs) if needs else None


def _drop_settings(cfg: DictConfig, model: type[Model], name: str, typed: Iterable[str]) -> None:
    """What an experiment sets of samples is no setting of every model's. Raises UserError where it was typed."""
    callback = resolve_target(cfg.callbacks[name]._target_, f"callbacks.{name}")
    for setting in getattr(callback, "of_samples", ()):
        if setting not in model.sample_settings and cfg.callbacks[name].get(setting) is not None:
            if (key := f"callbacks.{name}.{setting}") in typed:
                given = f"{key}={shown(cfg.callbacks[name][setting])}"
                raise UserError(f"{given}: samples of {model.__name__} have no such setting; leave it out")
            cfg.callbacks[name][setting] = None
