"""A trained run in Python: `ddpm_lab.load("outputs/digits/...")`."""

from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.grey import scale
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.errors import UserError
from ddpm_lab.likelihood.bound import Bound, BoundMeter
from ddpm_lab.training.module import DiffusionModule


class Run:
    """`net` (in eval mode), `diffusion`, `config`; `weights` says which the network has, `step` how long it was trained."""

    def __init__(self, module: DiffusionModule, weights: str, step: int) -> None:
        self.module, self.weights, self.step = module, weights, step

    @property
    def net(self) -> nn.Module:
        return self.module.net

    @property
    def diffusion(self) -> GaussianDiffusion:
        return self.module.diffusion

    @property
    def config(self) -> dict[str, Any]:
        return self.module.config

    def to(self, device: torch.device | str) -> "Run":
        """Moves the network; returns itself."""
        self.module.to(device)
        return self

    def sample(self, n: int, sampler: Sampler | None = None, seed: int = 0, batch: int = 256) -> Tensor:
        """n samples, n × C × H × W in [−1, 1] (or n × D). `sampler`: the run's own, or e.g. DDIM(steps=50) from
        ddpm_lab.core.sampler. Sample i depends on (seed, i) alone."""
        try:
            return self.module.sample(n, sampler, seed, batch)
        except ValueError as error:
            raise UserError(str(error)) from error

    def bound(self, images: Tensor, stride: int = 1, seed: int = 0) -> Bound:
        """The variational bound in bits/dim, by term. `images`: uint8 grey levels 0..levels−1, or floats on their grid in
        [−1, 1]; `stride` k measures each at every k-th t. Raises UserError for another shape or values off the grid."""
        levels = self.diffusion.levels
        if images.dtype not in (torch.uint8, torch.float32, torch.float64) or len(images) == 0:
            raise UserError(f"images: {len(images)} of {images.dtype}; allowed are uint8, float32 and float64, at least one.")
        if tuple(images.shape[1:]) != self.module.shape:
            raise UserError(f"images have shape {tuple(images.shape[1:])}; this run was trained on {self.module.shape}.")
        x0 = scale(images, levels) if images.dtype == torch.uint8 else images.float()
        if not x0.isfinite().all():
            raise UserError("images hold NaN or infinity.")
        if levels is not None:
            grid = (x0.double() + 1) * (levels - 1) / 2
            if x0.min() < -1 or x0.max() > 1 or (grid - grid.round()).abs().max() > 1e-3:
                raise UserError(f"images must lie on the {levels} grey levels in [-1, 1] that the decoder has bins for.")
        try:
            meter = BoundMeter(self.diffusion, self.diffusion.chain, stride, seed)
            for start in range(0, len(x0), 64):
                meter.add(self.net, x0[start : start + 64].to(self.module.device), start)
            return meter.result()
        except ValueError as error:
            raise UserError(str(error)) from error
