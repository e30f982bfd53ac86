"""Denoising diffusion as a model: network, process, loss, choice of timesteps and sampler."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core import rng, transfer
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.diffusion import GaussianDiffusion, Noised
from ddpm_lab.core.guidance import Conditional, Guidance, Unguided
from ddpm_lab.core.loss import Loss
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.prediction import Prediction
from ddpm_lab.core.sampler import DDIM, Sampler, draw
from ddpm_lab.core.timesteps import Timesteps
from ddpm_lab.core.variance import ReverseVariance
from ddpm_lab.domains import shown
from ddpm_lab.likelihood.bound import BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator
from ddpm_lab.likelihood.estimate import pilot as probabilities
from ddpm_lab.models import card
from ddpm_lab.models.compiling import compile_by
from ddpm_lab.models.contract import Curve, Losses, Meter, Model, Plain, Positions, State, named
from ddpm_lab.models.diffusion_measurements import Tallied, bound_parts, estimate_parts, in_order, of_diffusion
from ddpm_lab.models.measurement import Conditions, Measurement, Part
from ddpm_lab.models.networks import in_bf16, initialised
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
        **of_data: Any,
    ) -> None:
        """`of_data`: what every `Model` is given. `guidance`: None for none, as configurations of earlier versions have it."""
        super().__init__(**of_data)
        self.diffusion = GaussianDiffusion(schedule, prediction, variance, self.levels)
        self.loss = loss
        loss.check(self.diffusion)
        self._take(timesteps, sampler, guidance)
        self.net = initialised(net, self.shape, variance.n_outputs, self.seed, self.classes)

    def _take(self, timesteps: Timesteps, sampler: Sampler, guidance: Guidance | None) -> None:
        """The parts that need no network."""
        self.timesteps, self.sampler, self.guidance = timesteps, sampler, guidance or Unguided()
        sampler.check(self.diffusion)
        self.guidance.check(self.classes)
        self._in_bf16: list[nn.Module] = []  # in a list, which is no submodule

    @classmethod
    def untrained_parts(cls, parts: Mapping[str, Any]) -> set[str]:
        """Sampler and guidance; and the variance, unless the loss trains it or weighs by it, or the network must supply it."""
        fixed = not parts["loss"].trains_variance and parts["variance"].n_outputs == 1
        return {"sampler", "guidance"} | ({"variance"} if fixed else set())

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
        noised, t, weight = self._noised(batch)
        out = self.net(noised.xt, transfer.to_device(t, batch.x0.device), *batch.condition).to(batch.x0.dtype)
        return Losses(self.loss.parts(self.diffusion, out, noised), weight, Positions("t", t, self.diffusion.schedule.T))

    def _noised(self, batch: Batch) -> tuple[Noised, Tensor, Tensor]:
        """The batch at its times t (on the CPU), with the weights of its rows."""
        x0, rows = batch.x0, (batch.counter, batch.first, batch.first + len(batch.x0))
        eps = transfer.like(rng.normal(x0.shape[1:], self.seed, "noise", *rows), x0)  # first: t may have to be waited for
        u = rng.uniform(self.seed, "t", *rows)
        t, weight = self.timesteps(u, self.diffusion.schedule.T, batch.first, batch.size)
        return self.diffusion.noised(x0, eps, t), t, weight

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
        """The same weights under another reverse variance. Raises ValueError for one that data of this size do not allow."""
        variance.check(math.prod(self.shape))
        other = copy.copy(self)
        other.diffusion = replace(self.diffusion, variance=variance)
        return other

    @property
    def bound_terms(self) -> int:
        return len(self.diffusion.chain)

    def bound_meter(self, stride: int = 1, seed: int = 0) -> "DiffusionMeter":
        """Of every stride-th term; a stride beyond T counts as T."""
        return DiffusionMeter(self, min(stride, self.bound_terms), seed)

    def bound_estimator(self, pilot: Meter, terms: int, seed: int = 0) -> "DiffusionEstimator":
        """From the decoder's term and `terms` divergences of each datum."""
        assert isinstance(pilot, DiffusionMeter)
        return DiffusionEstimator(self, pilot, terms, seed)

    def measurements(self, conditions: Conditions) -> list[Measurement]:
        """None where samples are guided: they are of no model whose likelihood is known."""
        return [] if self.guided else of_diffusion(self, conditions)

    def curves(self) -> list[Curve]:
        return card.curves(self.diffusion.schedule)

    def card(self, x0: Tensor) -> list[str]:
        lines = card.schedule_card(self.diffusion, self.loss, x0)
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


class DiffusionMeter(Tallied, Meter):
    """The variational bound on the full chain, by `likelihood.bound`."""

    def __init__(self, model: Diffusion, stride: int, seed: int) -> None:
        super().__init__(BoundMeter(model.diffusion, model.diffusion.chain, stride, seed), model.network)

    def record(self) -> dict[str, Plain]:
        return {"stride": self.result().stride}

    def parts(self) -> list[Part]:
        return [part._replace(key=f"{part.key}_bpd") for part in bound_parts(self.result()) if part.level == 1]

    def arrays(self) -> dict[str, Any]:
        bound, tally = self.result(), self.tally
        along = ("times", "terms_bpd", "terms_se", "terms_n", "prior_bpd", "n", "stride")
        per_datum = in_order(tally.per_datum, tally.priors, tally.index, bound.stride)
        return {name: getattr(bound, name) for name in along} | per_datum._asdict()


class DiffusionEstimator(Tallied, Meter):
    """The same by `likelihood.estimate`. Its single terms are those of the pilot."""

    def __init__(self, model: Diffusion, pilot: DiffusionMeter, terms: int, seed: int) -> None:
        diffusion, self.pilot, self.terms = model.diffusion, pilot, terms
        super().__init__(BoundEstimator(diffusion, diffusion.chain, probabilities(pilot.result()), terms, seed), model.network)
        self.label = f"variational bound from {self._meter.calls} calls each"

    def record(self) -> dict[str, Plain]:
        return {"stride": None, "terms": self.terms, "calls": self._meter.calls}

    def parts(self) -> list[Part]:
        return [part._replace(key=f"{part.key}_bpd") for part in estimate_parts(self.result(), len(self._meter.chain))]

    def arrays(self) -> dict[str, Any]:
        result, tally = self.result(), self.tally
        per_datum = in_order(tally.decoder + tally.kl, tally.priors, tally.index)
        return self.pilot.arrays() | {"prior_bpd": result.prior_bpd, "n": result.n} | per_datum._asdict()
