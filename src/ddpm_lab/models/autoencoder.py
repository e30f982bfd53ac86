"""Auto-encoders: plain, sparse (Ng 2011) and denoising (Vincent et al. 2008), by squared error."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.transfer import like
from ddpm_lab.domains import Given, NonNegativeFloat, OpenUnit, PositiveFloat, PositiveInt, checked
from ddpm_lab.models.contract import Losses, Model, Plain, State
from ddpm_lab.models.networks import seeded
from ddpm_lab.models.readings import Picture, Reading


class Perceptrons(nn.Module):
    """An encoder to `widths[-1]` code units and its mirror image as decoder, with SiLU between layers. `squash` acts on codes."""

    def __init__(self, widths: tuple[int, ...], squash: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_layers(widths), squash())
        self.decoder = nn.Sequential(*_layers(widths[::-1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """B × shape -> reconstructions B × shape, codes [B, widths[-1]]."""
        code = self.encoder(x.flatten(1))
        return self.decoder(code).view_as(x), code


def _layers(widths: tuple[int, ...]) -> list[nn.Module]:
    layers = [layer for i, o in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(i, o), nn.SiLU())]
    return layers[:-1]


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Per dimension, of data in [−1, 1]: B × shape, B × shape -> B."""
    return ((x - y) ** 2).flatten(1).mean(1)


@checked
class Autoencoder(Model):
    """r(x) = decoder(encoder(x)), by E‖r(x) − x‖²."""

    no_likelihood = "an auto-encoder is no distribution"
    no_samples = "an auto-encoder has no distribution of codes to draw from"
    squash: Callable[[], nn.Module] = nn.Identity

    def __init__(
        self,
        hidden: tuple[PositiveInt, ...] = (128,),
        code: PositiveInt = 16,
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
    ) -> None:
        super().__init__(shape=shape, levels=levels, seed=seed, config=config)
        widths = (torch.Size(self.shape).numel(), *hidden, code)
        self.net = seeded(lambda: Perceptrons(widths, self.squash), seed)

    def losses(self, batch: Batch) -> Losses:
        error = squared_error(self.net(batch.x0)[0], batch.x0)
        return Losses({"squared_error": error}, torch.ones(len(error)))

    def reconstructed(self, x: Tensor) -> Tensor:
        return self.net(x)[0]

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        def error(x0: Tensor, index: Tensor) -> Tensor:
            return squared_error(self.reconstructed(x0), x0)

        label = "squared error of reconstructions per dimension"
        return {"reconstruction_error": Reading(label, "squared, data in [-1, 1]", error)}

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        return {"reconstructions": Picture([x0, self.reconstructed(x0)], ["data", "reconstructed"])}


@checked
class SparseAutoencoder(Autoencoder):
    """Code units in (0, 1) whose mean activations ρ̂_j are drawn to ρ by weight · Σ_j KL(ρ ‖ ρ̂_j) (Ng 2011, section 3). ρ̂ is the
    mean over what a process sees of a batch at once: pieces of a batch, or several processes, change it."""

    squash = nn.Sigmoid

    def __init__(
        self,
        hidden: tuple[PositiveInt, ...] = (),
        code: PositiveInt = 128,
        rho: OpenUnit = 0.05,
        weight: NonNegativeFloat = 0.01,
        **of_data: Any,
    ) -> None:
        super().__init__(hidden, code, **of_data)
        self.rho, self.weight = rho, weight

    def losses(self, batch: Batch) -> Losses:
        reconstructed, code = self.net(batch.x0)
        error, rho, rho_hat = squared_error(reconstructed, batch.x0), self.rho, code.mean(0)
        kl = rho * (rho / rho_hat).log() + (1 - rho) * ((1 - rho) / (1 - rho_hat)).log()
        parts = {"squared_error": error, "sparsity": (self.weight * kl.sum()).expand_as(error)}
        return Losses(parts, torch.ones(len(error)))

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        activation = Reading("mean activation of code units", "in (0, 1)", lambda x0, index: self.net(x0)[1].mean(1))
        return super().readings(seed) | {"mean_activation": activation}


FLOOR = (2 / 255) ** 2 / 12
"""Mean squared error of rounding to 256 grey levels: no PSNR counts a smaller one."""


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """10 log10(peak² / squared error) in dB, peak 2, that of data in [−1, 1]: B × shape, B × shape -> B."""
    return 10 * (4 / squared_error(x, y).clamp(min=FLOOR)).log10()


@checked
class DenoisingAutoencoder(Autoencoder):
    """r(x̃) of a corrupted x̃, by E‖r(x̃) − x‖² (Vincent et al. 2008).

    Noise: `gaussian` of standard deviation `amount`; `mask` sets that share of dimensions to 0, the middle grey;
    `salt_and_pepper` sets it to −1 or 1. Samples are where a walk of `steps` steps leads from pure noise: corrupt, then
    reconstruct (Bengio et al. 2013, without the noise of P(x | x̃)).
    """

    no_samples = ""

    def __init__(
        self,
        hidden: tuple[PositiveInt, ...] = (256,),
        code: PositiveInt = 128,
        noise: Literal["gaussian", "mask", "salt_and_pepper"] = "gaussian",
        amount: PositiveFloat = 0.5,
        measured: tuple[PositiveFloat, ...] = (0.25, 0.5, 1.0),
        steps: PositiveInt = 30,
        **of_data: Any,
    ) -> None:
        super().__init__(hidden, code, **of_data)
        self.noise, self.amount, self.measured, self.steps = noise, amount, measured, steps
        if noise != "gaussian" and (more := [a for a in (amount, *measured) if a > 1]):
            raise ValueError(f"amount, measured: {more[0]} is no share of dimensions, as noise={noise} needs: allowed is (0, 1]")

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
        x = like(rng.normal(self.shape, seed, "sampling", 0, start, stop), next(self.net.parameters()))
        for step in range(1, self.steps + 1):
            x = self.reconstructed(self.corrupted(x, self.amount, seed, "sampling", step, start))
            yield State(f"step {step}", x, x)

    def sample_record(self) -> dict[str, Plain]:
        return {"sampler": "corrupt_and_reconstruct", "steps": self.steps}

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        def of(k: int, denoise: bool) -> Callable[[Tensor, Tensor], Tensor]:
            def decibels(x0: Tensor, index: Tensor) -> Tensor:
                noisy = self.corrupted(x0, self.measured[k], seed, "evaluation", k, int(index[0]))
                return psnr(self.reconstructed(noisy) if denoise else noisy, x0)

            return decibels

        found = {}
        for k, amount in enumerate(self.measured):
            found[f"psnr@{amount:g}"] = Reading(f"PSNR denoised, {self.noise} {amount:g}", "dB", of(k, True))
            found[f"psnr_corrupted@{amount:g}"] = Reading(f"PSNR corrupted, {self.noise} {amount:g}", "dB", of(k, False))
        return found

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        columns, labels = [x0], ["data"]
        for k, amount in enumerate(self.measured):
            noisy = self.corrupted(x0, amount, seed, "evaluation", k, 0)
            columns += [noisy, self.reconstructed(noisy)]
            labels += [f"{amount:g}", "denoised"]
        return {"denoising": Picture(columns, labels)}
