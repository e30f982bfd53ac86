"""The denoising auto-encoder (Vincent et al. 2008), whose reconstructions are a score."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.transfer import like
from ddpm_lab.domains import PositiveFloat, PositiveInt, checked
from ddpm_lab.models.autoencoder import Autoencoder, squared_error
from ddpm_lab.models.contract import Losses, Plain, State
from ddpm_lab.models.readings import Picture, Reading

FLOOR = (2 / 255) ** 2 / 12
"""Mean squared error of rounding to 256 grey levels: no PSNR counts a smaller one."""


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """10 log10(peak² / squared error) in dB, peak 2, that of data in [−1, 1]: B × shape, B × shape -> B."""
    return 10 * (4 / squared_error(x, y).clamp(min=FLOOR)).log10()


@checked
class DenoisingAutoencoder(Autoencoder):
    """r(x̃) of a corrupted x̃, by E‖r(x̃) − x‖² (Vincent et al. 2008).

    Noise: `gaussian` of standard deviation `amount`; `mask` sets that share of dimensions to 0, the middle grey;
    `salt_and_pepper` sets it to −1 or 1. Samples are where a walk of `steps` steps leads from the middle grey: corrupt, then
    reconstruct (Bengio et al. 2013, without the noise of P(x | x̃)), within [−1, 1] for images.
    """

    no_samples = ""

    def __init__(
        self,
        hidden: tuple[PositiveInt, ...] = (256,),
        code: PositiveInt = 128,
        noise: Literal["gaussian", "mask", "salt_and_pepper"] = "gaussian",
        amount: PositiveFloat = 0.5,
        measured: tuple[PositiveFloat, ...] = (0.25, 0.5, 1.0),
        steps: PositiveInt = 10,
        **of_data: Any,
    ) -> None:
        super().__init__(hidden, code, **of_data)
        self.noise, self.amount, self.measured, self.steps = noise, amount, measured, steps
        if noise != "gaussian" and (more := [a for a in (amount, *measured) if a > 1]):
            raise ValueError(
                f"amount, measured: {more[0]} is no share of dimensions, as noise={noise} needs: allowed is (0, 1]"
            )

    def corrupted(self, x: Tensor, amount: float, seed: int, stream: rng.Stream, counter: int, first: int) -> Tensor:
        """x̃ of the rows first, first + 1, …: B × shape -> B × shape."""
        last, shape = first + len(x), x.shape[1:]
        if self.noise == "gaussian":
            return x + amount * like(rng.normal(shape, seed, stream, counter, first, last), x)
        u = like(rng.uniform(seed, stream, counter, first, last, shape), x)
        if self.noise == "mask":
            return torch.where(u < amount, 0, x)
        return torch.where(u < amount / 2, -1, torch.where(u < amount, 1, x))

    def losses(self, batch: Batch) -> Losses:
        noisy = self.corrupted(batch.x0, self.amount, self.seed, "noise", batch.counter, batch.first)
        error = squared_error(self.reconstructed(noisy), batch.x0)
        return Losses({"squared_error": error}, torch.ones(len(error)))

    def score(self, x: Tensor) -> Tensor:
        """∇ log p_σ(x) ≈ (r(x) − x) / σ², of data smoothed by Gaussian noise (Vincent 2011; Alain & Bengio 2014, Eq. 20): exact
        where r is the conditional mean. The noise that a diffusion model predicts is ε_θ = −σ score."""
        if self.noise != "gaussian":
            raise ValueError(f"noise={self.noise}: only Gaussian noise gives a score")
        return (self.reconstructed(x) - x) / self.amount**2

    @property
    def sample_steps(self) -> int:
        return self.steps

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        x = torch.zeros(stop - start, *self.shape, dtype=self.dtype, device=self.device)
        for step in range(1, self.steps + 1):
            x = self.reconstructed(self.corrupted(x, self.amount, seed, "sampling", step, start))
            x = x if self.levels is None else x.clamp(-1, 1)
            yield State(f"step {step}", x, x)

    def sample_record(self) -> dict[str, Plain]:
        return {"sampler": "corrupt_and_reconstruct", "steps": self.steps}

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        """By amount of noise: before and after."""

        def decibels(x0: Tensor, index: Tensor, k: int, denoised: bool) -> Tensor:
            noisy = self.corrupted(x0, self.measured[k], seed, "evaluation", k, int(index[0]))
            return psnr(self.reconstructed(noisy) if denoised else noisy, x0)

        found = {}
        for k, amount in enumerate(self.measured):
            for key, word in (("psnr", "denoised"), ("psnr_corrupted", "corrupted")):
                of = partial(decibels, k=k, denoised=key == "psnr")
                found[f"{key}@{amount:g}"] = Reading(f"PSNR {word}, {self.noise} {amount:g}", "dB", of)
        return found

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        columns, labels = [x0], ["data"]
        for k, amount in enumerate(self.measured):
            noisy = self.corrupted(x0, amount, seed, "evaluation", k, 0)
            columns += [noisy, self.reconstructed(noisy)]
            labels += [f"{amount:g}", "denoised"]
        return {"denoising": Picture(columns, labels)}
