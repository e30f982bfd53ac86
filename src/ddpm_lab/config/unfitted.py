"""Schedules of which something is still to be measured: by `config.fit`, before training."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ddpm_lab.config.instantiate import resolve_target
from ddpm_lab.config.nested import Config, at, plain
from ddpm_lab.core.fitted import constant_rate, tangent

if TYPE_CHECKING:
    from omegaconf import DictConfig

Numbers = dict[str, Any]
"""Keys of a schedule with plain values."""
OF = "measured_n"
"""Key of the number of data on which they were measured."""
STAND_IN: dict[Callable[..., Any], Numbers] = {
    tangent: {"variances": [1.0]},
    constant_rate: {"log_snr": [5.0, -5.0], "distances": [1.0]},
}
"""Of each schedule that is fitted what is measured, with numbers for checks of combinations, which read no data."""
MEASURED = {f"schedule.{key}" for numbers in STAND_IN.values() for key in (*numbers, OF)}
"""Keys that a fit writes."""


def unfitted(config: "DictConfig | Config") -> Callable[..., Any] | None:
    """The chosen schedule, where it is fitted and nothing was measured yet."""
    values = at(plain(config), "schedule") or {}
    schedule = resolve_target(values["_target_"], "schedule") if values else None
    measured = STAND_IN.get(schedule) if schedule else None
    return schedule if measured and all(values.get(key) is None for key in measured) else None


def standing_in(config: Config) -> Config:
    """With numbers in place of those that are still to be measured."""
    schedule = unfitted(config)
    return config if schedule is None else {**config, "schedule": {**config["schedule"], **STAND_IN[schedule]}}
