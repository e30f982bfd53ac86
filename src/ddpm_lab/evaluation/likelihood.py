"""The likelihood of a trained network: the bound in full or estimated, on any chain. Everything in bits/dim."""

from typing import Any, NamedTuple

from ddpm_lab.core import rng
from ddpm_lab.core.bound import Bound, Tally
from ddpm_lab.core.estimate import BoundEstimator, Estimate, EstimateTally, pilot
from ddpm_lab.core.flow import FlowLikelihood, FlowMeter, FlowTally
from ddpm_lab.core.likelihood import BoundMeter
from ddpm_lab.core.schedule import Chain
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.store import Piece
from ddpm_lab.evaluation.subject import Choice, Subject

PIECE = 32
PILOT = 128
"""Training data from which the estimate learns where the terms are large."""


class Of(NamedTuple):
    """Which data, and how they are measured."""

    split: str
    n: int
    stride: int
    clip: bool


def measured(subject: Subject, choice: Choice, chain: Chain, of: Of) -> Bound:
    """The bound, term by term. Raises UserError for fewer data than two at each time."""
    check_stride(of.stride, of.n)
    diffusion, net = choice.diffusion(subject.run.diffusion), subject.run.net

    def meter() -> BoundMeter:
        return BoundMeter(diffusion, chain, of.stride, subject.seed, of.clip, subject.batch)

    def work(start: int, stop: int) -> Piece:
        own = meter()
        own.add(net, subject.x0(of.split, start, stop), start)
        return own.tally._asdict()

    whole, about = meter(), _about(subject, choice, chain, of)
    told = f"bound of {of.n} {of.split} data, {len(chain)} steps"
    for piece in subject.store.pieces("bound", about, of.n, PIECE, work, told):
        whole.tally = whole.tally.plus(Tally(**piece))
    return whole.result()


def check_stride(stride: int, n: int) -> None:
    if n < 2 * stride:
        raise UserError(f"nll.stride={stride} needs at least {2 * stride} data, and there are {n}: use a smaller stride")


def estimated(subject: Subject, choice: Choice, chain: Chain, of: Of, terms: int) -> Estimate:
    """The bound from `terms` divergences per datum, where a pilot on training data found them large."""
    stride = max(1, min(len(chain) // 50, PILOT // 2, len(subject.data.raw("train")) // 2))
    first = Of("train", min(PILOT, len(subject.data.raw("train"))), stride, of.clip)
    p = pilot(measured(subject, choice, chain, first))
    diffusion, net = choice.diffusion(subject.run.diffusion), subject.run.net

    def estimator() -> BoundEstimator:
        return BoundEstimator(diffusion, chain, p, terms, subject.seed, of.clip, subject.batch)

    def work(start: int, stop: int) -> Piece:
        own = estimator()
        own.add(net, subject.x0(of.split, start, stop), start)
        return own.tally._asdict()

    whole, about = estimator(), _about(subject, choice, chain, of) | {"terms": terms, "pilot": first._asdict()}
    told = f"bound of {of.n} {of.split} data by {terms} terms, {len(chain)} steps"
    for piece in subject.store.pieces("estimate", about, of.n, 8 * PIECE, work, told):
        whole.tally = whole.tally.plus(EstimateTally(**piece))
    return whole.result()


def by_flow(subject: Subject, split: str, n: int, probes: int | None, tolerance: float) -> FlowLikelihood:
    """The likelihood by the probability flow, whatever the reverse variance: it has none."""

    def meter() -> FlowMeter:
        return FlowMeter(subject.run.diffusion, probes, tolerance, tolerance, subject.seed)

    def work(start: int, stop: int) -> Piece:
        own = meter()
        own.add(subject.run.net, subject.x0(split, start, stop), start)
        return own.tally._asdict()

    whole, about = meter(), subject.identity | {"split": split, "probes": probes, "tolerance": tolerance}
    for piece in subject.store.pieces("flow", about, n, rng.BLOCK, work, f"probability flow of {n} {split} data"):
        whole.tally = whole.tally.plus(FlowTally(**piece))
    return whole.result()


def _about(subject: Subject, choice: Choice, chain: Chain, of: Of) -> dict[str, Any]:
    times = list(chain.times)
    how = {"split": of.split, "stride": of.stride, "clip": of.clip, "variance": choice.about_variance}
    return subject.identity | how | {"times": times if len(times) < chain.schedule.T else "all"}
