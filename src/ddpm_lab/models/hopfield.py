"""The Hopfield network: units ±1 that store patterns as minima of an energy."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddpm_lab import ranks
from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.transfer import like
from ddpm_lab.domains import ClosedUnit, Given, PositiveInt, checked
from ddpm_lab.models.contract import Losses, Model, Plain, State
from ddpm_lab.models.readings import Picture, Reading


def hebb(patterns: Tensor) -> Tensor:
    """W_ij = Σ_p ξ_pi ξ_pj / N, W_ii = 0 (Hopfield 1982 Eq. 2, over N): P×N of ±1 -> N×N."""
    return (patterns.T @ patterns / patterns.shape[1]).fill_diagonal_(0)


def pseudoinverse(patterns: Tensor) -> Tensor:
    """The projection onto the patterns, W_ii = 0 (Personnaz et al. 1985): independent ones are fixed points. P×N -> N×N."""
    return (torch.linalg.pinv(patterns) @ patterns).fill_diagonal_(0)


def energy(weights: Tensor, s: Tensor) -> Tensor:
    """E = −½ sᵀWs (Hopfield 1982 Eq. 7): N×N, B×N -> B."""
    return -0.5 * ((s @ weights) * s).sum(1)


def aligned(field: Tensor, s: Tensor) -> Tensor:
    """Units take the sign of their field; without one they stay (Hopfield 1982 Eq. 1). Below 1e-5 a field is rounding."""
    return torch.where(field.abs() < 1e-5, s, field.sign())


def asynchronous(weights: Tensor, s: Tensor, order: Tensor) -> Tensor:
    """One sweep: B×N after each unit has been updated once, in this order (N), or each row in its own (B×N). With W symmetric
    and W_ii ≥ 0 no E rises."""
    s, rows = s.clone(), torch.arange(len(s))
    for i in order.expand(len(s), -1).unbind(1):
        s[rows, i] = aligned((s * weights[i]).sum(1), s[rows, i])
    return s


def synchronous(weights: Tensor, s: Tensor, order: Tensor) -> Tensor:
    """B×N after all units were updated at once. With W symmetric this ends in a fixed point or a cycle of two states."""
    return aligned(s @ weights, s)


RULES, UPDATES = {"hebb": hebb, "pseudoinverse": pseudoinverse}, {"asynchronous": asynchronous, "synchronous": synchronous}


class Synapses(nn.Module):
    """The weights, and the patterns that they are to store; zeros before those are known."""

    patterns: Tensor

    def __init__(self, patterns: int, units: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(units, units))
        self.register_buffer("patterns", torch.zeros(patterns, units))


@checked
class Hopfield(Model):
    """Stores the first `patterns` data of the run's first batch, each value by its sign.

    The loss ½‖W − W*‖² has its minimum at W* of the rule and the gradient −W* at the initial W = 0: one step of SGD with rate 1
    is the rule itself, and other optimisers come to it. Samples are where `sweeps` sweeps lead from random states: attractors
    as a rule, inverted patterns and mixtures of patterns among them.
    """

    no_likelihood = "a Hopfield network has an energy without a temperature, and so no distribution"
    net: Synapses

    def __init__(
        self,
        patterns: PositiveInt = 3,
        rule: Literal["hebb", "pseudoinverse"] = "hebb",
        updates: Literal["asynchronous", "synchronous"] = "asynchronous",
        sweeps: PositiveInt = 10,
        flipped: tuple[ClosedUnit, ...] = (0.0, 0.1, 0.2, 0.3),
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
    ) -> None:
        super().__init__(shape=shape, levels=levels, seed=seed, config=config)
        if levels is None:
            raise ValueError("a Hopfield network has units ±1 and needs data with grey levels")
        if patterns > (piece := config["data"]["batch_size"] // config["trainer"].get("accumulate", 1)):
            raise ValueError(f"patterns={patterns}: allowed is at most {piece}, the data of the first piece of a batch")
        self.patterns, self.rule, self.updates, self.sweeps, self.flipped = patterns, rule, updates, sweeps, flipped
        self.net = Synapses(patterns, torch.Size(self.shape).numel())

    def losses(self, batch: Batch) -> Losses:
        net, x = self.net, batch.x0.flatten(1)
        if batch.counter == 0 and not net.patterns.any():
            net.patterns.copy_(torch.where(ranks.rows(x)[: self.patterns] < 0, -1.0, 1.0))
        half = 0.5 * ((net.weights - RULES[self.rule](net.patterns)) ** 2).sum()
        return Losses({"distance": half.expand(len(x))}, torch.ones(len(x)))

    def relaxed(self, s: Tensor, seed: int, stream: rng.Stream, first: int) -> Iterator[Tensor]:
        """B×N after each sweep, of the rows first, first + 1, …: each sweep draws an order of updates for each row."""
        for sweep in range(1, self.sweeps + 1):
            order = rng.uniform(seed, stream, sweep, first, first + len(s), s.shape[1:]).argsort(1)
            s = UPDATES[self.updates](self.net.weights, s, order.to(s.device))
            yield s

    @property
    def sample_steps(self) -> int:
        return self.sweeps

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        s = like(rng.signs(seed, "sampling", 0, start, stop, self.shape), self.net.weights).flatten(1)
        for sweep, state in enumerate(self.relaxed(s, seed, "sampling", start), 1):
            yield State(f"sweep {sweep}", x := state.view(-1, *self.shape), x)

    def sample_record(self) -> dict[str, Plain]:
        return {"sampler": self.updates, "steps": self.sweeps}

    def recall(self, share: float, index: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of trial i: pattern i mod P as it was stored, with a `share` of its units flipped, and as it is recalled."""
        stored = self.net.patterns[index.to(self.device) % self.patterns]
        u = rng.uniform(seed, "evaluation", 0, int(index[0]), int(index[-1]) + 1, stored.shape[1:])
        corrupted = torch.where(like(u, stored) < share, -stored, stored)
        *_, recalled = self.relaxed(corrupted, seed, "evaluation", int(index[0]))
        return stored, corrupted, recalled

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        """A trial for each held-out datum, whose values do not matter. The error is over trials, not over other patterns."""

        def exact(x0: Tensor, index: Tensor, share: float) -> Tensor:
            stored, _, recalled = self.recall(share, index, seed)
            return (recalled == stored).all(1).double()

        label = "share recalled exactly of stored patterns with {:.0%} of units flipped, in one trial for each datum"
        return {f"recalled@{q:g}": Reading(label.format(q), "share", partial(exact, share=q)) for q in self.flipped}

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        share = max(self.flipped, default=0.0)
        columns = self.recall(share, torch.arange(min(self.patterns, len(x0))), seed)
        labels = ["stored", f"{share:.0%} flipped", "recalled"]
        return {"recall": Picture([column.view(-1, *self.shape) for column in columns], labels)}
