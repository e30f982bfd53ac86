"""Auto-encoders by squared error: plain, and sparse (Ng 2011)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core.batch import Batch
from ddpm_lab.domains import Given, NonNegativeFloat, OpenUnit, PositiveInt, checked
from ddpm_lab.models.contract import Losses, Model
from ddpm_lab.models.networks import seeded
from ddpm_lab.models.readings import Picture, Reading
from ddpm_lab.nets.coder import layers

LEAST = 1e-6
"""Of a mean activation and of its distance from 1, in the divergence: units that saturate in float32 have a finite one."""


class Perceptrons(nn.Module):
    """An encoder to `widths[-1]` code units and its mirror image as decoder, SiLU between layers. `squash` acts on codes."""

    def __init__(self, widths: tuple[int, ...], squash: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*layers(*widths), squash())
        self.decoder = nn.Sequential(*layers(*widths[::-1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """B × shape -> reconstructions B × shape, codes [B, widths[-1]]."""
        code = self.encoder(x.flatten(1))
        return self.decoder(code).view_as(x), code


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
        weight: NonNegativeFloat = 0.03,
        **of_data: Any,
    ) -> None:
        super().__init__(hidden, code, **of_data)
        self.rho, self.weight = rho, weight

    def losses(self, batch: Batch) -> Losses:
        reconstructed, code = self.net(batch.x0)
        error, rho, rho_hat = squared_error(reconstructed, batch.x0), self.rho, code.mean(0).clamp(LEAST, 1 - LEAST)
        kl = rho * (rho / rho_hat).log() + (1 - rho) * ((1 - rho) / (1 - rho_hat)).log()
        parts = {"squared_error": error, "sparsity": (self.weight * kl.sum()).expand_as(error)}
        return Losses(parts, torch.ones(len(error)))

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        activation = Reading("mean activation of code units", "in (0, 1)", lambda x0, index: self.net(x0)[1].mean(1))
        return super().readings(seed) | {"mean_activation": activation}
