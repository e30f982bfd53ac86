"""The likelihood of a trained network: the bound in full or estimated, on any chain. Everything in bits/dim."""

from typing import Any, NamedTuple

from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.path import Chain
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.store import Piece
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.likelihood.bound import Bound, BoundMeter, Tally
from ddpm_lab.likelihood.estimate import BoundEstimator, Estimate, EstimateTally, pilot
from ddpm_lab.likelihood.flow import FlowLikelihood, FlowMeter, FlowTally

PIECE = 32
PILOT = 128
"""Training data from which the estimate learns where the terms are large."""


class Of(NamedTuple):
    """Which data, and how they are measured."""

    split: str
    n: int
    stride: int
    clip: bool


class PerDatum(NamedTuple):
    """What was measured of each datum, as vlb_terms.npz of training has it: two choices can be paired over it."""

    per_datum_bpd: Tensor
    """The sum of its terms that were measured."""
    per_datum_prior_bpd: Tensor
    """Its L_T; 0 of the flow, which has none."""
    index: Tensor
    stride: int
    """Data whose indices agree modulo this were measured at the same times; 1 where each has the whole sum."""


def _per_datum(sums: Tensor, priors: Tensor, index: Tensor, stride: int = 1) -> PerDatum:
    order = index.argsort()
    return PerDatum(sums[order], priors[order], index[order], stride)


def measured(subject: Subject, choice: Choice, chain: Chain, of: Of) -> tuple[Bound, PerDatum]:
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
    _, sums, index, priors = whole.tally
    return whole.result(), _per_datum(sums, priors, index, of.stride)


def check_stride(stride: int, n: int) -> None:
    if n < 2 * stride:
        raise UserError(f"nll.stride={stride} needs at least {2 * stride} data, and there are {n}: use a smaller stride")


def estimated(subject: Subject, choice: Choice, chain: Chain, of: Of, terms: int) -> tuple[Estimate, PerDatum]:
    """The bound from `terms` divergences per datum, where a pilot on training data found them large."""
    stride = max(1, min(len(chain) // 50, PILOT // 2, len(subject.data.raw("train")) // 2))
    first = Of("train", min(PILOT, len(subject.data.raw("train"))), stride, of.clip)
    p = pilot(measured(subject, choice, chain, first)[0])
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
    index, priors, decoder, kl = whole.tally
    return whole.result(), _per_datum(decoder + kl, priors, index)


def by_flow(subject: Subject, split: str, n: int, probes: int | None, tolerance: float) -> tuple[FlowLikelihood, PerDatum]:
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
    index, bpd, _ = whole.tally
    return whole.result(), _per_datum(bpd, bpd.new_zeros(len(bpd)), index)


def _about(subject: Subject, choice: Choice, chain: Chain, of: Of) -> dict[str, Any]:
    times = list(chain.times)
    how = {"split": of.split, "stride": of.stride, "clip": of.clip, "variance": choice.about_variance}
    return subject.identity | how | {"times": times if len(times) < chain.schedule.T else "all"}
