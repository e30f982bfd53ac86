"""Schedules that are fitted before training. What was measured takes the place of null in the configuration, which is stored
so: who loads, resumes or measures the run needs neither the data nor the pilot for its schedule."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.build import current, load
from ddpm_lab.config.instantiate import instantiate
from ddpm_lab.config.nested import Config, at, plain
from ddpm_lab.config.resume import configuration, finished, located
from ddpm_lab.config.unfitted import OF, STAND_IN, Numbers, unfitted
from ddpm_lab.core.fitted import GROUPS, constant_rate, principal_variances, rounded, tangent
from ddpm_lab.core.guidance import conditioned
from ddpm_lab.core.spacing import times_of
from ddpm_lab.core.transfer import to_device
from ddpm_lab.errors import UserError
from ddpm_lab.likelihood.distances import distances

if TYPE_CHECKING:
    from ddpm_lab.data.memory import InMemory
    from ddpm_lab.models.run import Run


class Fit(NamedTuple):
    """How a schedule is fitted."""

    measured: Callable[[Config, "InMemory"], Numbers]
    """From the whole configuration and its data, to what is null until then."""
    check: Callable[[Config], Any] = lambda config: None
    """Raises UserError for a configuration that cannot be fitted, as far as no data tell."""


def check_fit(config: "DictConfig | Config") -> None:
    """Raises UserError for a schedule that cannot be fitted, as far as no data tell."""
    if (schedule := unfitted(config)) is not None:
        FITS[schedule].check(current(config))


def fitted(cfg: DictConfig) -> DictConfig:
    """With the numbers that its schedule is fitted to, in place: a function of the data, the pilot and the options of the
    schedule. A run that measures another's network has those of that one. Raises UserError where they cannot be measured."""
    if (schedule := unfitted(cfg)) is None:
        return cfg
    config, fit = current(cfg), FITS[schedule]
    fit.check(config)
    if (numbers := _of_trained_in(config, (*STAND_IN[schedule], OF))) is None:
        data: InMemory = instantiate(config, "data")
        data.setup()
        numbers = fit.measured(config, data)
    OmegaConf.set_struct(cfg, False)
    cfg.schedule.update(numbers)
    return cfg


def _of_trained_in(config: Config, keys: tuple[str, ...]) -> Numbers | None:
    """Those of the run whose network is measured here, if its schedule was fitted by the same options."""
    if (run := at(config, "run.trained_in")) is None:
        return None
    stored = plain(configuration(*located(Path(run).expanduser(), "run.trained_in")))["schedule"]
    ours, theirs = ({key: value for key, value in one.items() if key not in keys} for one in (config["schedule"], stored))
    return {key: stored[key] for key in keys} if ours == theirs else None


def of_data(config: Config, data: "InMemory") -> Numbers:
    """Of `tangent`: the variances along the principal axes of the data. With grey levels their floor is the variance of
    rounding to them, a twelfth of the squared distance between two."""
    options = config["schedule"]
    x = data.scaled("train", options["n"]).double().flatten(1)
    rounding = 0.0 if data.levels is None else (2 / (data.levels - 1)) ** 2 / 12
    try:
        variances = principal_variances(x, rounding if options["floor"] is None else options["floor"])
    except ValueError as error:
        raise UserError(f"schedule.{error}") from error
    return {"variances": variances, OF: len(x)}


def of_pilot(config: Config, data: "InMemory") -> Numbers:
    """Of `constant_rate`: how far the network's estimate moves between times evenly spaced in log SNR. Raises UserError for a
    pilot of other data."""
    from ddpm_lab.evaluation.measure import device_of

    options, named = config["schedule"], f"schedule.pilot={config['schedule']['pilot']}"
    run = _pilot(config)
    ours, theirs = (data.shape, data.levels), (run.model.shape, run.model.levels)
    if ours != theirs:
        raise UserError(f"{named}: was trained on data of {_described(*theirs)}, and these are of {_described(*ours)}")
    classes = data.of_classes()
    if (classes and len(classes.counts)) != (run.model.classes and len(run.model.classes.counts)):
        raise UserError(f"{named}: its classes are not those of the data: choose data.conditional as it has it")
    run.to(device := device_of("cpu" if config["trainer"]["accelerator"] == "cpu" else "auto"))
    x0, diffusion = to_device(data.scaled("train", options["n"]), device), run.diffusion
    labels = next((to_device(labels, device) for labels in data.condition("train", 0, len(x0))), None)
    times = times_of(diffusion.schedule, min(GROUPS + 1, diffusion.schedule.T), "log_snr")
    network = conditioned(run.net, labels)
    found = [rounded(one) for one in distances(diffusion, network, x0, times, options["quantity"]).tolist()]
    if not all(0 < one < float("inf") for one in found):
        raise UserError(
            f"{named}: {options['quantity']} of its network does not move, or is not finite, at some t: train it longer"
        )
    log_snr = diffusion.schedule.snr[list(times)].log().tolist()
    return {"log_snr": [rounded(one) for one in log_snr], "distances": found, OF: len(x0)}


def _described(shape: tuple[int, ...], levels: int | None) -> str:
    return f"shape {tuple(shape)}, {'no' if levels is None else levels} grey levels"


def _pilot(config: Config) -> "Run":
    """Raises UserError for a pilot without the diffusion that is needed."""
    from ddpm_lab.models.diffusion import Diffusion
    from ddpm_lab.models.variance_head import VarianceHead

    given = config["schedule"]["pilot"]
    run = load(Path(given).expanduser())
    if not isinstance(run.model, Diffusion) or isinstance(run.model, VarianceHead):
        kind = "a head" if isinstance(run.model, VarianceHead) else type(run.model).__name__
        raise UserError(f"schedule.pilot={given}: is the run of {kind}: allowed is that of a diffusion model")
    schedule = run.model.diffusion.schedule
    if schedule.reaches_zero or schedule.T < 2:
        raise UserError(
            f"schedule.pilot={given}: T = {schedule.T} and ᾱ_T = {float(schedule.alphas_bar[-1]):.3g}: allowed is a pilot with "
            "two times or more and ᾱ_T > 0, as log SNR at T is the end of the new schedule"
        )
    return run


def check_pilot(config: Config) -> None:
    """Raises UserError where there is no pilot, or none that is complete."""
    given = config["schedule"]["pilot"]
    if given is None:
        raise UserError(
            "schedule=constant_rate: is fitted to a trained network: add schedule.pilot=RUN, the folder of a run on these data"
        )
    path = Path(given).expanduser()
    checkpoint, folder = located(path, "schedule.pilot")
    if folder is None or not path.is_dir():
        raise UserError(f"schedule.pilot={given}: a checkpoint; allowed is the folder of a run")
    stored = plain(configuration(checkpoint, folder))
    if stored.get("imported") is None and not finished(folder, steps := stored["trainer"]["max_steps"]):
        raise UserError(f"schedule.pilot={given}: is not complete at step {steps}: go on with it by resume={given} first")


FITS: dict[Callable[..., Any], Fit] = {tangent: Fit(of_data), constant_rate: Fit(of_pilot, check_pilot)}
