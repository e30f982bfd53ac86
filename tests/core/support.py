"""What the tests of the core share: options from conf/, small diffusions, data on a grid, networks that know the answer."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ddpm_lab.core.diffusion import GaussianDiffusion, Reverse
from ddpm_lab.core.gaussian import Normal
from ddpm_lab.core.path import NoiseSchedule, Step
from ddpm_lab.core.schedule import cosine, linear, quadratic
from ddpm_lab.core.variance import Seen

from . import reference

CONF = Path(__file__).parents[2] / "conf"


def options(group: str) -> list[str]:
    """Every yaml of a group that names a Python object (variance=auto is only a word)."""
    files = sorted((CONF / group).glob("*.yaml"))
    return [file.stem for file in files if "." in str(OmegaConf.load(file)["_target_"])]


MEASURED: dict[str, dict[str, Any]] = {
    "tangent": {"variances": [reference.VARIANCE]},
    "constant_rate": {"log_snr": reference.LOG_SNR, "distances": reference.DISTANCES},
}
"""In place of what training measures first for a schedule."""


def make(group: str, name: str, **changes: Any) -> Any:
    """The object of an option, with some arguments changed."""
    changes = (MEASURED.get(name, {}) if group == "schedule" else {}) | changes
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    module, _, attribute = config.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), attribute)(**{**config, **changes})


def reaches_zero(schedule: str) -> bool:
    """Whether ᾱ_T = 0."""
    return bool(make("schedule", schedule).alphas_bar[-1] == 0)


NEED_SIGNAL = {"eps", "edm"}
"""Predictions that are refused there."""


class Setting(NamedTuple):
    """The choices under which a term is computed, as the reference names them."""

    prediction: str = "eps"
    variance: str = "beta"
    levels: int | None = 256

    def __str__(self) -> str:
        return f"{self.prediction}-{self.variance}-{self.levels}"


HO = Setting()


def diffusion_of(schedule: NoiseSchedule, setting: Setting = HO) -> GaussianDiffusion:
    prediction, variance = make("prediction", setting.prediction), make("variance", setting.variance)
    return GaussianDiffusion(schedule, prediction, variance, setting.levels)


GOLDEN = {
    "linear-1k": lambda: linear(1000),
    "linear-4k": lambda: linear(4000, rescale=True),
    "cosine-1k": lambda: cosine(1000),
    "cosine-4k": lambda: cosine(4000),
    "quad-1k": lambda: quadratic(1000),
}
"""The columns of golden values."""


def tables_of(name: str, T: int) -> reference.Tables:
    reference.check("schedule", name)
    return reference.Tables(reference.BETAS[name](T))


REFUSED = (ValueError, TypeError)
"""A wrong dtype or word is a ValueError, or a TypeError before that where annotations are checked."""


def log_var_of(variance: Any, step: Step) -> Tensor:
    """log σ² of a variance that looks at the step alone."""
    none = torch.zeros(step.t.shape or (1, 1))
    return variance.covariance(Seen(none, step, none, None)).log_var()


def normal_of(reverse: Reverse) -> Normal:
    """A reverse step whose covariance is diagonal."""
    return Normal(reverse.mean, reverse.covariance.log_var())


def on_grid(shape: tuple[int, ...], levels: int | None, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Data on the grid of `levels`, both ends among them; normal where there are no levels."""
    g = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.randn(shape, generator=g, dtype=dtype)
    k = torch.randint(levels, shape, generator=g)
    flat = k.flatten(1)
    flat[:, 0], flat[:, -1] = 0, levels - 1
    return (2.0 * flat.reshape(shape) / (levels - 1) - 1).to(dtype)


def normal_like(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def all_times(T: int) -> Tensor:
    return torch.arange(1, T + 1)


def assert_close(actual: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    actual, expected = torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
