"""Denoising diffusion as a model: network, process, loss, choice of timesteps and sampler."""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core import rng, transfer
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.diffusion import GaussianDiffusion, Noised
from ddpm_lab.core.gamma import LearnedSchedule, ReadOff, fixed, read_off
from ddpm_lab.core.guidance import Conditional, Guidance, Unguided
from ddpm_lab.core.loss import Loss
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.prediction import Prediction
from ddpm_lab.core.sampler import DDIM, Sampler, draw
from ddpm_lab.core.time import Discrete, Time
from ddpm_lab.core.timesteps import Timesteps
from ddpm_lab.core.uncertainty import Uncertainty, uncertain
from ddpm_lab.core.variance import ReverseVariance
from ddpm_lab.domains import shown
from ddpm_lab.models import card
from ddpm_lab.models.compiling import compile_by
from ddpm_lab.models.contract import Curve, Losses, Meter, Model, Plain, Positions, State, named
from ddpm_lab.models.diffusion_measurements import of_diffusion
from ddpm_lab.models.diffusion_meters import DiffusionEstimator, DiffusionMeter
from ddpm_lab.models.measurement import Conditions, Measurement
from ddpm_lab.models.networks import Accompanied, given, in_bf16, initialised, path_of, uncertainty_of
from ddpm_lab.models.optimal import times_record


class Diffusion(Model):
    """DDPM (Ho et al. 2020) with its choices. `net` makes a network for in_channels, out_channels and size, the side of an
    image (None for vectors), and of conditional data their number of classes; its initial weights are fixed by the seed."""

    sample_settings = ("sampler", "steps", "eta", "guidance")

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction: Prediction,
        variance: ReverseVariance,
        loss: Loss,
        timesteps: Timesteps,
        sampler: Sampler,
        net: Callable[..., nn.Module],
        guidance: Guidance | None = None,
        time: Time | None = None,
        uncertainty: Uncertainty | None = None,
        **of_data: Any,
    ) -> None:
        """`of_data`: what every `Model` is given. `guidance`, `time`, `uncertainty`: None for none and for discrete time, as
        configurations of earlier versions have it."""
        super().__init__(**of_data)
        self._diffusion = GaussianDiffusion(schedule, prediction, variance, self.levels)
        self.loss, self.time = loss, time or Discrete()
        loss.check(self._diffusion)
        self.time.check(self._diffusion, loss, timesteps)
        if uncertainty is not None:
            uncertainty.check(self._diffusion, loss, timesteps)
        self._take(timesteps, sampler, guidance, loss)
        self.net = initialised(net, self.shape, variance.n_outputs, self.seed, self.classes)
        path = schedule.path() if isinstance(schedule, LearnedSchedule) else None
        if path is not None or uncertainty is not None:
            self.net = Accompanied(self.net, path, uncertainty)

    def _take(self, timesteps: Timesteps, sampler: Sampler, guidance: Guidance | None, loss: Loss | None = None) -> None:
        """The parts that need no network."""
        self.timesteps, self.sampler, self.guidance = timesteps, sampler, guidance or Unguided()
        timesteps.check(self._diffusion.schedule, loss)
        sampler.check(self._diffusion)
        self.guidance.check(self.classes)
        self._in_bf16: list[nn.Module] = []  # in a list, which is no submodule

    @classmethod
    def untrained_parts(cls, parts: Mapping[str, Any]) -> set[str]:
        """Sampler and guidance; and the variance, unless the loss trains it or weighs by it, or the network must supply it."""
        fixed = not parts["loss"].trains_variance and parts["variance"].n_outputs == 1
        discrete = parts.get("time", Discrete) is Discrete  # as all was before there was a choice
        return {"sampler", "guidance"} | ({"variance"} if fixed else set()) | ({"time"} if discrete else set())

    @property
    def diffusion(self) -> GaussianDiffusion:
        """The process; of a learned schedule with the table that is read off it now."""
        if (path := path_of(self.network)) is not None:
            now = fixed(path, self._diffusion.schedule.T)
            last = self._diffusion.schedule
            if not (isinstance(last, ReadOff) and torch.equal(now.alphas_bar, last.alphas_bar)):
                self._diffusion = replace(self._diffusion, schedule=now)
        return self._diffusion

    def _training_diffusion(self) -> GaussianDiffusion:
        """The process, through whose learned schedule gradients flow."""
        if (path := path_of(self.net)) is None:
            return self._diffusion
        return replace(self._diffusion, schedule=read_off(path, self._diffusion.schedule.T))

    @property
    def network(self) -> nn.Module:
        """What `diffusion` splits the output of: prediction, and raw variance where the variance needs one."""
        return self.net

    @property
    def guided(self) -> bool:
        return self.guidance.scale != 1

    @property
    def learns(self) -> bool:
        return self.timesteps.learns

    def losses(self, batch: Batch) -> Losses:
        """DDPM Algorithm 1."""
        diffusion = self._training_diffusion()
        noised, t, weight = self._noised(diffusion, batch)
        net = functools.partial(given, self.net, batch.condition)
        out = diffusion.output(net, noised.xt, transfer.to_device(t, batch.x0.device), noised.step)
        parts, uncertainty = self.loss.parts(diffusion, out, noised), uncertainty_of(self.net)
        if uncertainty is not None:
            parts = uncertain(parts, uncertainty(noised.step.at_t))
        return Losses(parts, weight, Positions("t", t.round().long(), diffusion.schedule.T))

    def _noised(self, diffusion: GaussianDiffusion, batch: Batch) -> tuple[Noised, Tensor, Tensor]:
        """The batch at its times t (on the CPU), with the weights of its rows."""
        x0, first, n = batch.x0, batch.first, len(batch.x0)
        eps = transfer.like(rng.normal(x0.shape[1:], self.seed, "noise", batch.counter, first, first + n), x0)
        u = rng.uniform(self.seed, "t", batch.counter, *((0, 1) if self.timesteps.shared else (first, first + n))).expand(n)
        t, weight = self.time.drawn(self.timesteps, diffusion, u, first, batch.size)  # after ε: it may have to be waited for
        return self.time.noised(diffusion, x0, eps, t), t, weight

    def update(self, positions: Tensor, per_example: Tensor) -> None:
        self.timesteps.update(positions, per_example)

    def training_state(self) -> dict[str, Tensor]:
        return self.timesteps.state_dict()

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.timesteps.load_state_dict(state)

    @property
    def sample_steps(self) -> int:
        return len(self.sampler.chain(self.diffusion.schedule))

    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        """DDPM Algorithm 2, or another sampler; of a conditional model given the classes of the samples."""

        def network(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.sample_in_bf16):
                return net(x, t, *condition)

        times, training = reversed(self.sampler.chain(self.diffusion.schedule).times), self.net.training
        self.net.eval()
        net = self._net_in_bf16() if self.sample_in_bf16 else self.network
        like, given, labels = next(self.net.parameters()), network, self.sample_classes(start, stop, seed)
        if self.classes is not None and labels is not None:
            given = Conditional(network, transfer.to_device(labels, like.device), self.guidance, self.classes.null)
        states = draw(self.sampler, self.diffusion, given, self.shape, seed=seed, start=start, stop=stop, like=like)
        try:
            for t, state in zip(times, states, strict=True):
                yield State(f"t = {t}", state.x, state.x0)
        finally:
            self.net.train(training)

    def _net_in_bf16(self) -> nn.Module:
        """A copy, made once, with the weights as they are now: autocast would cast those of convolutions and matrix products at
        every call."""
        if not self._in_bf16 or next(self._in_bf16[0].parameters()).device != self.device:
            self._in_bf16[:] = [in_bf16(self.network)]
            if self.compiled:
                compile_by(self._in_bf16[0], self.compiled)
        else:
            self._in_bf16[0].load_state_dict(self.network.state_dict())
        return self._in_bf16[0].eval()

    def sampling(
        self,
        *,
        sampler: Sampler | None = None,
        steps: int | None = None,
        eta: float | None = None,
        guidance: Guidance | None = None,
        **others: Any,
    ) -> "Diffusion":
        """By another sampler; or by the same in at most so many `steps`, or by DDIM where an `eta` is given. Under another
        guidance; of other classes."""
        other, chosen = copy.copy(super().sampling(**others)), sampler or self.sampler
        other.guidance = guidance or self.guidance
        other.guidance.check(self.classes)
        if eta is not None:
            chosen = DDIM(chosen.steps, eta, chosen.spacing, chosen.clip, optimal=chosen.optimal)
        if steps is not None:
            chosen = copy.copy(chosen)
            chosen.steps = min(steps, self.diffusion.schedule.T)
        chosen.check(self.diffusion)
        other.sampler = chosen
        return other

    def with_variance(self, variance: ReverseVariance) -> "Diffusion":
        """The same weights under another reverse variance. Raises ValueError for one that these data do not allow."""
        variance.check(math.prod(self.shape), self.diffusion.levels)
        other = copy.copy(self)
        other._diffusion = replace(self.diffusion, variance=variance)
        return other

    @property
    def bound_terms(self) -> int:
        return len(self.diffusion.chain)

    def bound_meter(self, stride: int = 1, seed: int = 0) -> DiffusionMeter:
        """Of every stride-th term; a stride beyond T counts as T."""
        return DiffusionMeter(self, min(stride, self.bound_terms), seed)

    def bound_estimator(self, pilot: Meter, terms: int, seed: int = 0) -> DiffusionEstimator:
        """From the decoder's term and `terms` divergences of each datum."""
        assert isinstance(pilot, DiffusionMeter)
        return DiffusionEstimator(self, pilot, terms, seed)

    def measurements(self, conditions: Conditions) -> list[Measurement]:
        """None where samples are guided: they are of no model whose likelihood is known."""
        return [] if self.guided else of_diffusion(self, conditions)

    def curves(self) -> list[Curve]:
        return card.curves(self.diffusion.schedule)

    def card(self, x0: Tensor) -> list[str]:
        lines = card.schedule_card(self.diffusion, self.loss, x0) + card.density_card(self.timesteps, self.diffusion.schedule)
        if (path := path_of(self.net)) is not None:
            ends = "trained" if path.first.requires_grad else "held"
            lines.append(f"the schedule is learned, its ends {ends}: this is where it starts")
        if not self.sampler.uses(self.diffusion.variance):
            settings = ", ".join(f"{key}={shown(value)}" for key, value in self.sampler.settings.items())
            name = named(self.sampler) + (settings and f" ({settings})")
            lines.append(f"sampler={name} does not use the variance: samples are the same for every variance")
        return lines

    def sample_record(self) -> dict[str, Plain]:
        sampler, variance = self.sampler, self.diffusion.variance
        chain, used = sampler.chain(self.diffusion.schedule), sampler.uses(variance)
        calls, products = sampler.calls(chain), variance.products(math.prod(self.shape)) if used else 0
        if products:
            products *= sum(map(sampler.adds_noise, chain.steps_down()))
        return {
            "sampler": named(sampler),
            "steps": self.sample_steps,
            **({} if calls == self.sample_steps else {"calls": calls}),
            **({"products": products} if products else {}),
            "spacing": sampler.spacing,
            **times_record(sampler, self.diffusion.schedule.T),
            "eta": None,
            **sampler.settings,
            "variance": named(variance) if used else None,
            "clip": self.diffusion.clips_x0(sampler.clip),
            "T": self.diffusion.schedule.T,
            **self._condition_record(),
        }

    def _condition_record(self) -> dict[str, Plain]:
        """Of samples of a conditional model."""
        if self.classes is None:
            return {}
        asked, interval = self.asked_classes, self.guidance.interval
        return {
            "classes": "by training frequency" if asked is None else ", ".join(map(str, asked)),
            "guidance_scale": self.guidance.scale,
            "guidance_interval": None if interval is None else shown(interval),
        }

    def variance_record(self) -> dict[str, Plain]:
        """Settings of the reverse variance, and where it comes from, beside its name."""
        return dict(self.diffusion.variance.settings)

    def bound_record(self) -> dict[str, Plain]:
        """On the full chain, as trained; of a conditional model that of data given their classes."""
        given: dict[str, Plain] = {} if self.classes is None else {"given": "class"}
        return given | {
            "steps": self.bound_terms,
            "variance": named(self.diffusion.variance),
            "clip": self.diffusion.clips_x0(),
            "T": self.diffusion.schedule.T,
        }
