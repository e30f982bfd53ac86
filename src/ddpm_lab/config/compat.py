"""Combinations that cannot work, and what `variance=auto` stands for: decided from names and facts, without torch.

What a loss, a variance, a network or a data set is capable of is read from its class (`facts.py`), so a new option
needs no line here.
"""

import math
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.facts import fact
from ddpm_lab.config.options import conf_dir, content, options, target
from ddpm_lab.errors import UserError, require_for_logger

SCHEDULES, UNET = "ddpm_lab.core.schedule", "ddpm_lab.nets.unet.UNet"


class _Setup(NamedTuple):
    cfg: dict[str, Any]
    dirs: Sequence[Path]

    def get(self, group: str, key: str) -> Any:
        return (self.cfg.get(group) or {}).get(key)

    def fact(self, group: str, name: str) -> Any:
        return fact(self.get(group, "_target_") or "", name)

    def name(self, group: str) -> str:
        """The choice as the user types it; of options with one class, the one with most values in common."""
        chosen = self.cfg.get(group) or {}
        files = options(group, self.dirs)
        alike = [option for option, path in files.items() if target(path) == chosen.get("_target_")]

        def in_common(option: str) -> int:
            return sum(chosen.get(key) == value for key, value in _content(files[option]).items())

        return f"{group}={max(alike, key=in_common) if alike else str(chosen.get('_target_')).rpartition('.')[2]}"

    def fitting(self, group: str, name: str, fits: Callable[[Any], bool]) -> str:
        """The options of a group whose fact fits, as advice: "use loss=hybrid or loss=vlb"."""
        files = options(group, self.dirs)
        return " or ".join(f"{group}={option}" for option, path in files.items() if fits(fact(target(path) or "", name)))


def check_compatible(cfg: DictConfig | dict[str, Any], dirs: Sequence[Path] | None = None) -> None:
    """Refuse a combination that would train or measure something other than what was asked for."""
    plain = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    setup = _Setup(cast(dict[str, Any], plain), [conf_dir()] if dirs is None else dirs)
    for check in (
        _variance_is_trained, _variance_is_needed, _signal_is_there, _weight_is_finite, _end_has_weight, _shapes_agree,
        _features_are_of_data, _labels_are_there, _clip_has_bounds, _steps_are_there,
        _noise_is_where_it_starts,
        _precisions_agree, _averages_differ, _sigmoid_falls, _rescaled_betas_are_possible,
        _images_pass_through, _packages_are_there,
    ):  # fmt: skip
        check(setup)


def option_name(cfg: DictConfig, group: str, dirs: Sequence[Path]) -> str:
    """The option of a group that a configuration was made with, or the one most like it."""
    return _Setup(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)), dirs).name(group).partition("=")[2]


def check_evaluated(cfg: DictConfig, trained: DictConfig, dirs: Sequence[Path]) -> None:
    """Put what the run was trained with in place of `auto`, `names` beside it, and refuse what its network cannot be asked."""
    before = _Setup(cast(dict[str, Any], OmegaConf.to_container(trained, resolve=True)), dirs)
    groups = ["metrics"]
    for group in ("variance", "sampler"):
        if cfg[group]["_target_"] != "auto" and group not in trained:
            raise UserError(f"{setup_name(cfg, group, dirs)}: the model of this run has no {group}; leave it out")
        if cfg[group]["_target_"] == "auto":
            cfg[group] = trained.get(group)
        groups += [group] if group in trained else []
    asked = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    setup = _Setup(before.cfg | {group: asked[group] for group in groups}, dirs)
    for check in (_features_are_of_data, _labels_are_there, _clip_has_bounds, _steps_are_there, _noise_is_where_it_starts):
        check(setup)
    cfg.names = {group: setup.name(group).partition("=")[2] for group in groups}
    _output_has_variance(setup, before)
    _bound_can_be_measured(setup, asked["nll"])


def setup_name(cfg: DictConfig, group: str, dirs: Sequence[Path]) -> str:
    return _Setup(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)), dirs).name(group)


def _output_has_variance(setup: _Setup, before: _Setup) -> None:
    own, learned = before.get("variance", "_target_"), setup.fact("variance", "n_outputs") == 2
    if learned and setup.get("variance", "_target_") != own:
        fixed = setup.fitting("variance", "n_outputs", lambda n: n == 1)
        raise UserError(
            f"{setup.name('variance')} is an output of the network, and this one was trained with {before.name('variance')}: "
            f"leave variance away for that, or choose {fixed}"
        )


def _bound_can_be_measured(setup: _Setup, nll: dict[str, Any]) -> None:
    if nll["terms"] is not None and nll["stride"] != 1:
        raise UserError(f"nll.stride={nll['stride']} has no part in an estimate by nll.terms={nll['terms']}: leave one away")
    if nll["clip"] is True and setup.fact("data", "gives") == "vectors":
        raise UserError(f"nll.clip=true cuts x̂_0 to [-1, 1], and the vectors of {setup.name('data')} have no such bounds")


def _variance_is_trained(setup: _Setup) -> None:
    if setup.fact("variance", "n_outputs") == 2 and setup.fact("loss", "trains_variance") is False:
        losses = setup.fitting("loss", "trains_variance", lambda trains: trains is True)
        variances = setup.fitting("variance", "n_outputs", lambda n: n == 1)
        raise UserError(
            f"{setup.name('loss')} leaves the output of {setup.name('variance')} untrained: use {losses}, or choose {variances}"
        )


def _variance_is_needed(setup: _Setup) -> None:
    if setup.fact("loss", "needs_learned_variance") and setup.fact("variance", "n_outputs") == 1:
        variances = setup.fitting("variance", "n_outputs", lambda n: n == 2)
        losses = setup.fitting("loss", "needs_learned_variance", lambda needs: not needs)
        raise UserError(
            f"{setup.name('loss')} trains the variance with its second term, and {setup.name('variance')} "
            f"has nothing to train: choose {variances}, or use {losses}"
        )


def _signal_is_there(setup: _Setup) -> None:
    if setup.fact("schedule", "reaches_zero") and setup.fact("prediction", "needs_signal"):
        predictions = setup.fitting("prediction", "needs_signal", lambda needs: needs is False)
        schedules = setup.fitting("schedule", "reaches_zero", lambda reaches: not reaches)
        raise UserError(
            f"{setup.name('schedule')} ends at ᾱ_T = 0, and {setup.name('prediction')} cannot tell x̂_0 where nothing of it is "
            f"left: use {predictions}, or choose {schedules}"
        )


def _weight_is_finite(setup: _Setup) -> None:
    weighs, weighable = setup.fact("loss", "weighs"), setup.fact("prediction", "weighable")
    if weighs is not None and weighable is not None and weighs not in weighable:
        predictions = setup.fitting("prediction", "weighable", lambda kinds: kinds is not None and weighs in kinds)
        losses = setup.fitting("loss", "weighs", lambda other: other is None or other in weighable)
        raise UserError(
            f"{setup.name('loss')} weighs the error of x̂_0, and with {setup.name('prediction')} its weight is without bounds "
            f"where little signal is left: use {predictions}, or choose {losses}"
        )


def _end_has_weight(setup: _Setup) -> None:
    if setup.fact("loss", "weighs") == "snr" and setup.fact("schedule", "reaches_zero"):
        losses = setup.fitting("loss", "weighs", lambda weighs: weighs != "snr")
        schedules = setup.fitting("schedule", "reaches_zero", lambda reaches: not reaches)
        raise UserError(
            f"{setup.name('loss')} gives no weight to t = T of {setup.name('schedule')}, where ᾱ_T = 0 and where sampling "
            f"starts: use {losses}, or choose {schedules}"
        )


def _shapes_agree(setup: _Setup) -> None:
    accepts, gives = setup.fact("net", "accepts"), setup.fact("data", "gives")
    if accepts and gives and accepts != gives:
        nets = setup.fitting("net", "accepts", lambda kind: kind == gives)
        raise UserError(
            f"{setup.name('net')} takes {accepts}, and {setup.name('data')} gives {gives}: use {nets or 'another net'}"
        )


def _images_pass_through(setup: _Setup) -> None:
    side = setup.fact("data", "known_side")
    size = setup.get("data", side) if isinstance(side, str) else side
    if size is None or setup.get("net", "_target_") != UNET:
        return
    multipliers, attention = setup.get("net", "multipliers"), setup.get("net", "attention")
    shown, halvings = f"{setup.name('data')} gives images of {size}×{size}", len(multipliers) - 1
    if size % 2**halvings:
        raise UserError(
            f"{shown}, and net.multipliers={multipliers} halves them {halvings} times: use fewer multipliers"
            + (f", or a multiple of {2**halvings} as data.{side}" if isinstance(side, str) else "")
        )
    sides = [size // 2**i for i in range(len(multipliers))]
    if not set(attention) <= set(sides):
        raise UserError(
            f"{shown}, and net.attention={attention} asks for a size they do not pass through: choose from {sides}, "
            f"e.g. net.attention=[{sides[-1]}]"
        )


def _features_are_of_data(setup: _Setup) -> None:
    accepts, gives = setup.fact("metrics", "accepts"), setup.fact("data", "gives")
    if accepts and gives and accepts != gives:
        metrics = setup.fitting("metrics", "accepts", lambda kind: kind in (None, gives))
        raise UserError(f"{setup.name('metrics')} takes {accepts}, and {setup.name('data')} gives {gives}: use {metrics}")


def _labels_are_there(setup: _Setup) -> None:
    known = setup.fact("data", "gives") is not None
    if setup.fact("metrics", "needs_labels") and known and setup.fact("data", "classes") is None:
        metrics = setup.fitting("metrics", "needs_labels", lambda needs: not needs)
        data = setup.fitting("data", "classes", lambda classes: classes is not None)
        raise UserError(
            f"{setup.name('metrics')} is trained on labels, and {setup.name('data')} has none: use {metrics}, or choose {data}"
        )


def _clip_has_bounds(setup: _Setup) -> None:
    if setup.get("sampler", "clip") is True and setup.fact("data", "gives") == "vectors":
        raise UserError(
            f"sampler.clip=true cuts x̂_0 to [-1, 1], and the vectors of {setup.name('data')} have no such bounds: "
            "use sampler.clip=false"
        )


def _steps_are_there(setup: _Setup) -> None:
    steps, T = setup.get("sampler", "steps"), setup.get("schedule", "T")
    if steps is not None and T is not None and steps > T:
        raise UserError(
            f"sampler.steps={steps} is more than schedule.T={T}: allowed is 1 to {T}, or sampler.steps=null for all"
        )


def _noise_is_where_it_starts(setup: _Setup) -> None:
    steps, T = setup.get("sampler", "steps"), setup.get("schedule", "T")
    if setup.fact("schedule", "reaches_zero") and setup.get("sampler", "spacing") == "leading" and steps not in (None, T):
        raise UserError(
            f"sampler.spacing=leading does not begin at T, the one time at which {setup.name('schedule')} has no signal: "
            "use sampler.spacing=trailing, linspace or quadratic"
        )


def _precisions_agree(setup: _Setup) -> None:
    if setup.get("trainer", "precision") == "64-true" and setup.get("trainer", "sample_precision") == "bf16-mixed":
        raise UserError(
            "trainer.sample_precision=bf16-mixed leaves the float64 network of trainer.precision=64-true as it is: "
            "use trainer.sample_precision=32-true"
        )


def _packages_are_there(setup: _Setup) -> None:
    for package in setup.fact("logger", "packages") or ():
        require_for_logger(package)


def _averages_differ(setup: _Setup) -> None:
    decay, also = setup.get("ema", "decay"), setup.get("ema", "also") or []
    if len({decay, *also}) <= len(also):
        raise UserError(f"ema.also={also}: each decay once, and not ema.decay={decay} again")


def _sigmoid_falls(setup: _Setup) -> None:
    start, end = setup.get("schedule", "start"), setup.get("schedule", "end")
    if setup.get("schedule", "_target_") == f"{SCHEDULES}.sigmoid_alpha_bar" and start >= end:
        raise UserError(f"schedule.start={start} schedule.end={end}: ᾱ would not fall; allowed is a start below the end")


def _rescaled_betas_are_possible(setup: _Setup) -> None:
    T, start, end = (setup.get("schedule", key) for key in ("T", "beta_start", "beta_end"))
    if setup.get("schedule", "_target_") != f"{SCHEDULES}.linear" or not setup.get("schedule", "rescale"):
        return
    largest = 1000 * (max(start, end) if T > 1 else start)  # of T = 1 the only β is the first
    if largest / T > 1:
        raise UserError(
            f"schedule.T={T} schedule.rescale=true: β would rise to {largest / T:.4g}, and no β may exceed 1: "
            f"use schedule.T={math.ceil(largest)} or more, or schedule.rescale=false"
        )


def _content(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))


def resolve_auto(cfg: DictConfig | dict[str, Any], dirs: Sequence[Path] | None = None) -> str | None:
    """Put in place of `variance=auto` the variance that the loss's paper used, and return its option's name."""
    if cfg["variance"]["_target_"] != "auto":
        return None
    dirs = [conf_dir()] if dirs is None else dirs
    name, files = fact(cfg["loss"]["_target_"], "auto_variance"), options("variance", dirs)
    if name not in files:
        named = ", ".join(f"variance={option}" for option in files if option != "auto")
        raise UserError(f"variance=auto: the loss does not say which variance it goes with; choose one of {named}")
    cast(MutableMapping[str, Any], cfg)["variance"] = content("variance", name, dirs)
    return name
