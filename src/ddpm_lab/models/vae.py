"""The variational auto-encoder (Kingma and Welling 2014) with the decoder of DDPM Eq. 13, so that its bits/dim are the same
quantity as those of a diffusion model."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.gaussian import Normal, kl_nats, log_bin_nats, log_density_nats
from ddpm_lab.core.transfer import like
from ddpm_lab.domains import Given, PositiveInt, checked
from ddpm_lab.models.compiling import Compile, compile_by
from ddpm_lab.models.contract import Losses, Model, Picture, Plain, Reading, State
from ddpm_lab.models.meter import PerDatum
from ddpm_lab.models.networks import seeded
from ddpm_lab.nets.coder import Architecture, decoder, encoder

LEAST, MOST = -12.0, 4.0  # of the log variance of p(x | z): below, every bin is certain


class Coders(nn.Module):
    """`encoder`: x -> mean and log variance of q(z | x). `decoder`: z -> mean of p(x | z), and its log variance where the
    decoder gives that; `log_var` else."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, log_var: nn.Parameter | None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.log_var = encoder, decoder, log_var


@checked
class VAE(Model):
    """p(z) = N(0, I); q(z | x) and p(x | z) are diagonal Gaussians. The latter is discretised to the data's grey levels.

    `scale`: whether p(x | z) has one learned σ for all dimensions, or one for each from the decoder. `draws`: of the
    importance-weighted bound.
    """

    net: Any  # Coders

    def __init__(
        self,
        architecture: Architecture = "mlp",
        latent: PositiveInt = 16,
        width: PositiveInt = 256,
        scale: Literal["shared", "output"] = "output",
        draws: PositiveInt = 64,
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
    ) -> None:
        super().__init__(shape=shape, levels=levels, seed=seed, config=config)
        self.latent, self.draws, self.dims = latent, draws, math.prod(shape)

        def coders() -> Coders:
            log_var = nn.Parameter(torch.zeros(())) if scale == "shared" else None
            there, back = (shape, 2 * latent, width), (latent, shape, 2 if scale == "output" else 1, width)
            return Coders(encoder(architecture, *there), decoder(architecture, *back), log_var)

        self.net = seeded(coders, seed)

    def posterior(self, x: Tensor) -> Normal:
        """q(z | x)."""
        return Normal(*self.net.encoder(x).chunk(2, 1))

    def likelihood(self, z: Tensor) -> Normal:
        """p(x | z), before it is discretised."""
        mean, *log_var = self.net.decoder(z).split(self.shape[0], 1)
        return Normal(mean, (log_var[0] if self.net.log_var is None else self.net.log_var).clamp(LEAST, MOST))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """In nats, [B]: DDPM Eq. 13 on grey levels, else the density."""
        p = self.likelihood(z)
        return (log_density_nats(x, p) if self.levels is None else log_bin_nats(x, p, self.levels)).flatten(1).sum(1)

    def summands(self, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """Kingma and Welling 2014 Eq. 3: the negative bound of each datum in bits/dim, with z = μ + σε."""
        q, nats = self.posterior(x), 1 / (math.log(2) * self.dims)
        kl = kl_nats(q, Normal(torch.zeros_like(q.mean), torch.zeros_like(q.mean))).sum(1)
        return {"reconstruction": -self.log_likelihood(x, drawn(q, eps)) * nats, "kl": kl * nats}

    def log_weight(self, x: Tensor, eps: Tensor) -> Tensor:
        """log p(x, z) − log q(z | x) in nats, [B]."""
        q = self.posterior(x)
        z, prior = drawn(q, eps), Normal(torch.zeros_like(q.mean), torch.zeros_like(q.mean))
        return self.log_likelihood(x, z) + (log_density_nats(z, prior) - log_density_nats(z, q)).sum(1)

    def losses(self, batch: Batch) -> Losses:
        rows = (batch.counter, batch.first, batch.first + len(batch.x0))
        eps = rng.normal((self.latent,), self.seed, "noise", *rows)
        return Losses(self.summands(batch.x0, eps.to(batch.x0)), torch.ones(len(batch.x0)))

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        """x ~ p(x | z), z ~ p(z): rounded to the nearest grey level it has the discretised distribution."""
        p = self.likelihood(self._like(rng.normal((self.latent,), seed, "sampling", 0, start, stop)))
        noise = self._like(rng.normal(self.shape, seed, "sampling", 1, start, stop))
        yield State("x", drawn(p, noise), p.mean)

    def bound_meter(self, stride: int = 1, seed: int = 0) -> PerDatum:
        def bits(x0: Tensor, index: Tensor) -> dict[str, Tensor]:
            return self.summands(x0, self._at(index, seed))

        labels = {"reconstruction": "−log p(x | z), reconstruction", "kl": "KL(q(z | x) ‖ p(z))"}
        return PerDatum("variational bound", bits, labels)

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        def tightened(x0: Tensor, index: Tensor) -> Tensor:
            """Burda et al. 2016 Eq. 8."""
            weights = torch.stack([self.log_weight(x0, self._at(index, seed, draw)) for draw in range(self.draws)])
            return -(weights.double().logsumexp(0) - math.log(self.draws)) / (math.log(2) * self.dims)

        label = f"bits/dim, importance-weighted bound of {self.draws} draws"
        return {"iwae_bpd": Reading(label, "bits/dim", tightened, {"draws": self.draws})}

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        q, steps = self.posterior(x0).mean, torch.linspace(0, 1, 9)
        pairs = [self.likelihood(torch.lerp(q, q.roll(-1, 0), float(step))).mean for step in steps]
        between = Picture([x0, *pairs, x0.roll(-1, 0)], ["data", *(f"{step:.2f}" for step in steps), "next"])
        return {"reconstruction": Picture([x0, self.likelihood(q).mean], ["data", "p(x | z)"]), "interpolation": between}

    def compile_net(self, how: Compile = True) -> None:
        """Encoder and decoder, each at its first call."""
        self.compiled = how
        for coder in (self.net.encoder, self.net.decoder):
            compile_by(coder, how)

    def sample_record(self) -> dict[str, Plain]:
        return {"sampler": "decoder", "steps": 1}

    def bound_record(self) -> dict[str, Plain]:
        return {"steps": 1}

    def _at(self, index: Tensor, seed: int, draw: int = 0) -> Tensor:
        """The draws that measure data of these consecutive indices."""
        return self._like(rng.normal((self.latent,), seed, "evaluation", draw, int(index[0]), int(index[-1]) + 1))

    def _like(self, numbers: Tensor) -> Tensor:
        return like(numbers, next(self.net.parameters()))


def drawn(p: Normal, noise: Tensor) -> Tensor:
    """The reparameterisation μ + σε."""
    return p.mean + torch.exp(0.5 * p.log_var) * noise
