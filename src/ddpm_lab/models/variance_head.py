"""The second stage of a diffusion model: a head on its frozen network, which learns the diagonal of Cov(x_0 | x_t)."""

from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core import rng, transfer
from ddpm_lab.core.batch import Batch, Classes
from ddpm_lab.core.diffusion import GaussianDiffusion, Noised, implied_eps
from ddpm_lab.core.guidance import Guidance
from ddpm_lab.core.heads import HeadVariance, Observed, head_loss, pullback
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.prediction import Prediction
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.core.timesteps import Timesteps
from ddpm_lab.domains import Incompatible, Text
from ddpm_lab.models.compiling import Compile, compile_by
from ddpm_lab.models.contract import Losses, Plain, Positions, named
from ddpm_lab.models.diffusion import Diffusion
from ddpm_lab.models.networks import Factory, made, seeded


class Headed(nn.Module):
    """A network, frozen and in eval mode, with a head on its features: the network's prediction, then h."""

    def __init__(self, base: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.base, self.head = base.eval().requires_grad_(False), head

    def forward(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        """[B C ...], [B] -> [B 2C ...]. A base that has learned a variance gives that up for h."""
        features = self.base.features(x, t, *labels)
        return torch.cat([self.base.leave(features)[:, : x.shape[1]], self.head(features)], 1)


class VarianceHead(Diffusion):
    """NPR, SN or OCM: the same diffusion, whose network is trained already and stays as it is. `net` is the head alone; the
    factory `net` makes the frozen network, and `head` the head for in_channels, out_channels and whether data are images.

    `weights` says which of the base they are, `sha256` what they hash to: whoever makes the frozen network holds it against that.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction: Prediction,
        variance: HeadVariance,
        timesteps: Timesteps,
        sampler: Sampler,
        net: Factory,
        head: Factory,
        guidance: Guidance | None = None,
        *,
        weights: Text | None = None,
        sha256: Text | None = None,
        **of_data: Any,
    ) -> None:
        super(Diffusion, self).__init__(**of_data)
        if schedule.reaches_zero:
            raise Incompatible("ᾱ_T = 0: at t = T x_t says nothing of x_0, and Cov(x_0 | x_t) = (σ²/ᾱ_t) Cov(ε | x_t)", "schedule")
        self.diffusion = GaussianDiffusion(schedule, prediction, variance, self.levels)
        self._take(timesteps, sampler, guidance)
        base, shape = made(net, self.shape, 1, self.classes), self.shape
        width, images = feature_channels(base, shape, self.classes), len(shape) == 3
        self.net = seeded(lambda: head(in_channels=width, out_channels=shape[0], images=images), self.seed)
        self._headed = [Headed(base, self.net)]  # in a list, which is no submodule: the base is in no checkpoint
        self.head_record: dict[str, Plain] = {}

    @classmethod
    def untrained_parts(cls, parts: Any) -> set[str]:
        return {"sampler", "guidance"}

    @property
    def network(self) -> Headed:
        return self._headed[0]

    def _apply(self, fn: Any, recurse: bool = True) -> "VarianceHead":
        """The base goes where the head goes."""
        self.network.base._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def compile_net(self, how: Compile = True) -> None:
        self.compiled = how
        compile_by(self.network, how)

    def losses(self, batch: Batch) -> Losses:
        """Of the head. The network runs without a gradient but for that of ε̂ in x_t, where the head's target needs it."""
        noised, t, weight = self._noised(batch)
        features, observed = self._observed(noised, batch, transfer.to_device(t, batch.x0.device))
        variance = self.diffusion.variance
        assert isinstance(variance, HeadVariance)
        loss = head_loss(self.net(features).to(batch.x0.dtype), variance.target(observed))
        return Losses({named(variance): loss}, weight, Positions("t", t, self.diffusion.schedule.T))

    def _observed(self, noised: Noised, batch: Batch, t: Tensor) -> tuple[Tensor, Observed]:
        """The features at x_t, and what the target is made of. One autograd call gives (∂out/∂x_t)ᵀ v."""
        xt, step, base, prediction = noised.xt, noised.step, self.network.base, self.diffusion.prediction
        differentiates, signs, pulled = self.diffusion.variance.differentiates, None, None  # type: ignore[attr-defined]
        with torch.set_grad_enabled(differentiates):
            x = xt.detach().requires_grad_(differentiates)
            features = base.features(x, t, *batch.condition)
            out = base.leave(features)[:, : xt.shape[1]].to(xt.dtype)
            if differentiates:
                rows = (batch.counter, batch.first, batch.first + len(xt))
                signs = transfer.like(rng.signs(self.seed, "signs", *rows, xt.shape[1:]), xt)
                pulled = pullback(prediction, torch.autograd.grad(out, x, signs)[0], signs, step)
        eps_hat = implied_eps(prediction.x0(out.detach(), xt, step), xt, step.at_t)
        return features.detach(), Observed(noised, eps_hat, signs, pulled)

    def variance_record(self) -> dict[str, Plain]:
        variance = self.diffusion.variance
        if not isinstance(variance, HeadVariance):
            return super().variance_record()
        return self.head_record | {"clip_cov": variance.clip_cov, "max_last_noise": variance.max_last_noise}

    def bound_record(self) -> dict[str, Plain]:
        return super().bound_record() | self.variance_record()

    def card(self, x0: Tensor) -> list[str]:
        model = self.config["model"]
        return [f"a head on the frozen network of {self.config['base']}, weights {model['weights']}, sha256 {model['sha256']}"]


def feature_channels(net: nn.Module, shape: tuple[int, ...], classes: Classes | None) -> int:
    """The width of a network's features. Raises ValueError for a network that gives none."""
    if not all(callable(getattr(net, name, None)) for name in ("features", "leave")):
        raise ValueError(
            f"net: a head is trained on the features of a network, and {type(net).__name__} has no features(x, t) and "
            "leave(features), which together are its forward(x, t)"
        )
    like = next(net.parameters(), torch.zeros(()))
    x, t = torch.zeros(1, *shape, device=like.device, dtype=like.dtype), torch.ones(1, device=like.device)
    with torch.no_grad():
        return net.features(x, t, *([] if classes is None else [torch.zeros_like(t).long()])).shape[1]
