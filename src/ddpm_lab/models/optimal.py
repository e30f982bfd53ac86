"""The times of spacing=optimal: how they are found for a network, and what records say of them."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm_lab.core.optimal import cheapest, costs
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.core.spacing import Optimal
from ddpm_lab.likelihood.at_times import ErrorMeter
from ddpm_lab.models.at_times import AtTimes
from ddpm_lab.models.contract import named
from ddpm_lab.models.measurement import Plain

SHOWN = 20
"""Times that a record lists."""


class OptimalTimes(AtTimes):
    """As many times as the sampler has steps, of the lowest bound on training data under the model's reverse variance."""

    argument, kind, what = "optimal", "errors", "sampler.spacing=optimal: the error of x̂_0"

    def meter(self, times: Sequence[int]) -> ErrorMeter:
        return ErrorMeter(self.model.diffusion, tuple(times), self.conditions.seed, self.conditions.batch)

    def result(self, sums: Tensor) -> Optimal:
        diffusion = self.model.diffusion
        of_steps = costs(diffusion.schedule, diffusion.variance, self.of_sums(sums))
        return Optimal(cheapest(of_steps, self.model.sample_steps), self.n)

    def tables(self, result: Optimal) -> dict[str, dict[str, Tensor]]:
        """The times."""
        name = f"times_{len(result.times)}_{named(self.model.diffusion.variance)}"
        return {name: {"t": torch.tensor(result.times)}}


def times_record(sampler: Sampler, T: int) -> dict[str, Plain]:
    """Of spacing=optimal the times, or a hash of many; from how many data they were found, and by how many network calls."""
    if sampler.optimal is None:
        return {}
    text = " ".join(map(str, sampler.optimal.times))
    many = len(sampler.optimal.times) > SHOWN
    return {
        "times": f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}" if many else text,
        "times_n": sampler.optimal.n,
        "times_calls": sampler.optimal.n * T,
    }
