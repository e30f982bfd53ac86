"""scheduler_config.json of diffusers, the other way round than `interop.diffusers.scheduled` reads it."""

from collections.abc import Mapping
from typing import Any

from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError
from ddpm_lab.interop.diffusers import PREDICTIONS, SCHEDULES, VARIANCES

THEIRS = {option: name for name, option in SCHEDULES.items()}
SPACINGS = ("trailing", "leading", "linspace")
"""Those of timestep_spacing, which mean the same where T is a multiple of the steps; linspace always does."""
LARGE = 1e6
"""No x̂_0 is cut there: the s of dynamic thresholding has no upper limit here."""


def formula(option: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The beta_schedule by which diffusers computes the same table; None where it has none. `values`: all parameters."""
    factor = 1000 / values["T"] if values.get("rescale") else 1
    ends = {f"beta_{end}": values[f"beta_{end}"] * factor for end in ("start", "end") if f"beta_{end}" in values}
    match option:
        case "linear" | "quadratic":
            return {"beta_schedule": THEIRS[option], **ends}
        case "sigmoid_beta" if values["width"] == 6:
            return {"beta_schedule": THEIRS[option], **ends}
        case "cosine" if (values["offset"], values["max_beta"]) == (0.008, 0.999):
            return {"beta_schedule": THEIRS[option]}
        case "constant":
            return {"beta_schedule": "linear", "beta_start": values["beta"], "beta_end": values["beta"]}
        case "zero_terminal_snr" if values["base"] in ("linear", "quadratic"):
            return {"beta_schedule": THEIRS[values["base"]], **ends, "rescale_betas_zero_snr": True}
    return None


def scheduler(
    schedule: dict[str, Any], T: int, prediction: str, variance: str, clip: bool | float, spacing: str
) -> dict[str, Any]:
    """`schedule`: a `formula`, or trained_betas, the table. `clip`: as `core.types.Clip`. `spacing`: as the sampler's;
    trailing is written for those that diffusers has not. Raises UserError."""
    threshold = {} if isinstance(clip, bool) else {"dynamic_thresholding_ratio": clip, "sample_max_value": LARGE}
    return {
        "_class_name": "DDPMScheduler",
        **schedule,
        "clip_sample": bool(clip),
        "num_train_timesteps": T,
        "prediction_type": _theirs("prediction", prediction, PREDICTIONS),
        "thresholding": bool(threshold),
        "timestep_spacing": spacing if spacing in SPACINGS else "trailing",
        "variance_type": _theirs("variance", variance, VARIANCES),
        **threshold,
    }


def _theirs(group: str, option: str, known: Mapping[str, str]) -> str:
    """The first of their names for an option."""
    if option not in known.values():
        allowed = ", ".join(dict.fromkeys(known.values()))
        raise UserError(f"to=diffusers: {group}={shown(option)}: DDPMScheduler has none such; allowed is {allowed}")
    return next(name for name, ours in known.items() if ours == option)
