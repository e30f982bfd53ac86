"""The second stage of a diffusion model: a head on its frozen network, which learns the diagonal of Cov(x_0 | x_t)."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core import rng, transfer
from ddpm_lab.core.batch import Batch, Classes
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.guidance import Guidance
from ddpm_lab.core.heads import OfHead, head_loss
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.prediction import Prediction
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.core.time import Discrete
from ddpm_lab.core.timesteps import Timesteps
from ddpm_lab.domains import Text
from ddpm_lab.models.compiling import Compile, compile_by
from ddpm_lab.models.contract import Losses, Plain, Positions, named
from ddpm_lab.models.diffusion import Diffusion
from ddpm_lab.models.networks import Factory, given, innermost, made, seeded


class Headed(nn.Module):
    """A network, frozen and in eval mode, with a head on its features: the network's prediction, then h, through which no
    gradient reaches the features."""

    def __init__(self, base: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.base: Any = base.eval().requires_grad_(False)
        self.head = head

    def forward(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        """[B C ...], [B] -> [B 2C ...]. A base that has learned a variance gives that up for h."""
        features = self.base.features(x, t, *labels)
        return torch.cat([self.base.leave(features)[:, : x.shape[1]], self.head(features.detach())], 1)


class VarianceHead(Diffusion):
    """NPR, SN or OCM: the same diffusion, whose network is trained already and stays as it is. `net` is the head alone; the
    factory `net` makes the frozen network, and `head` the head for in_channels, out_channels and whether data are images.

    `weights` says which of the base they are, `sha256` what they hash to: who makes the frozen network holds it against that.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction: Prediction,
        variance: OfHead,
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
        self._diffusion, self.time = GaussianDiffusion(schedule, prediction, variance, self.levels), Discrete()
        self._take(timesteps, sampler, guidance)
        base, shape = made(net, self.shape, 1, self.classes).eval(), self.shape
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
        """Of the head. Of the network nothing is differentiated, but ε̂ by x_t where the target needs it."""
        diffusion, variance, v = self.diffusion, self.diffusion.variance, None
        assert isinstance(variance, OfHead)
        noised, t, weight = self._noised(diffusion, batch)
        x = noised.xt.detach().requires_grad_(variance.learns_jacobian)
        # not as compiled: that would be one function, whose derivatives by x and by the head's weights are taken together
        net = functools.partial(given, self.network.forward, batch.condition)
        out = diffusion.output(net, x, transfer.to_device(t, x.device), noised.step)
        seen = diffusion.seen(out, noised.xt, noised.step)
        if variance.learns_jacobian:
            rows = (batch.counter, batch.first, batch.first + len(x))
            v = transfer.like(rng.signs(self.seed, "signs", *rows, x.shape[1:]), x)
            seen = seen._replace(pullback=diffusion.pullback(out, x, noised.step))
        assert seen.raw is not None
        loss = head_loss(seen.raw, variance.target(noised.eps, seen, v))
        return Losses({named(variance): loss}, weight, Positions("t", t, diffusion.schedule.T))

    def variance_record(self) -> dict[str, Plain]:
        variance = self.diffusion.variance
        if not isinstance(variance, OfHead):
            return super().variance_record()
        return self.head_record | dict(variance.settings)

    def bound_record(self) -> dict[str, Plain]:
        return super().bound_record() | self.variance_record()

    def card(self, x0: Tensor) -> list[str]:
        model = self.config["model"]
        return [f"a head on the frozen network of {self.config['base']}, weights {model['weights']}, sha256 {model['sha256']}"]


def feature_channels(net: Any, shape: tuple[int, ...], classes: Classes | None) -> int:
    """The width of a network's features. Raises ValueError for a network that gives none."""
    inner = innermost(net)
    if not all(callable(getattr(inner, name, None)) for name in ("features", "leave")):
        raise ValueError(
            f"net: a head is trained on the features of a network, and {type(inner).__name__} has no features(x, t) and "
            "leave(features), which together are its forward(x, t)"
        )
    like = next(net.parameters(), torch.zeros(()))
    x, t = torch.zeros(1, *shape, device=like.device, dtype=like.dtype), torch.ones(1, device=like.device)
    with torch.no_grad():
        return net.features(x, t, *([] if classes is None else [torch.zeros_like(t).long()])).shape[1]
