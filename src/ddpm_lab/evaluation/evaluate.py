"""Everything that is asked of one network under one choice of sampler and variance."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ddpm_lab import ranks
from ddpm_lab.core.grey import scale
from ddpm_lab.core.path import Chain
from ddpm_lab.evaluation import likelihood
from ddpm_lab.evaluation.likelihood import Of, PerDatum
from ddpm_lab.evaluation.quality import SPOKEN, scores
from ddpm_lab.evaluation.samples import drawn
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.likelihood.bound import Bound
from ddpm_lab.likelihood.estimate import Estimate
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.metrics.published import PublishedStats
from ddpm_lab.metrics.record import Result
from ddpm_lab.pictures import save_grid


@dataclass
class Evaluated:
    """What came of it: numbers with their records, and the bounds they are from, by chain ("full", "sampler")."""

    choice: Choice
    steps: int
    results: list[Result] = field(default_factory=list)
    bounds: dict[str, Bound] = field(default_factory=dict)
    per_datum: dict[str, PerDatum] = field(default_factory=dict)
    """By the key of the number that they are of."""
    grid: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """The network, and the seed."""
    setting: str = ""
    """What tells it from another one with this sampler, variance and number of steps."""

    def named(self, name: str) -> str:
        """The name of a file of its own."""
        return (f"{name}_{self.setting}" if self.setting else name).replace("/", "_").replace(" ", "_")


def evaluate(
    subject: Subject,
    choice: Choice,
    extractor: Extractor,
    stats: PublishedStats | None,
    nll: Any,
    quality: Any,
    folder: Path,
    setting: str = "",
) -> Evaluated:
    """`nll` and `quality` are those parts of the configuration; pictures go to `folder`."""
    trained = subject.run.diffusion
    about = {
        "checkpoint": str(subject.checkpoint),
        "weights": subject.run.weights,
        "step": subject.run.step,
        "seed": subject.seed,
    }
    found = Evaluated(choice, len(choice.chain(trained)), about=about, setting=setting)
    for name, chain in chains(trained.schedule.chain(), choice.chain(trained), nll.chain).items():
        found.results += _likelihood(subject, choice, chain, name, nll, found)
    if nll.ode_n:
        found.results.append(_by_flow(subject, nll, found))
    if quality.n:
        with TemporaryDirectory(dir=subject.store.folder) as scratch:
            found.results += scores(subject, choice, quality.n, extractor, quality.reference, stats, Path(scratch))
    shown = min(quality.grid, quality.n)
    samples = drawn(subject, choice, quality.n) if shown else []  # by all processes: they meet there
    if shown and ranks.rank() == 0:
        name = found.named(f"samples_{choice.sampler_name}_{found.steps}_{choice.variance_of_samples}") + ".png"
        found.grid = save_grid(scale(samples[0]["x"][:shown], trained.levels), folder / name)
    return found


def chains(full: Chain, sampler: Chain, asked: str) -> dict[str, Chain]:
    """The chains whose bound is asked for; one that is the other is measured once."""
    both = {"full": full} if sampler.times == full.times else {"full": full, "sampler": sampler}
    return both if asked == "both" else {asked: full if asked == "full" else sampler}


def _likelihood(subject: Subject, choice: Choice, chain: Chain, name: str, nll: Any, found: Evaluated) -> list[Result]:
    """The bound on one chain, by term, with the gap to training data."""
    data, trained = subject.data, subject.run.diffusion
    clip = trained.clips if nll.clip is None else nll.clip
    n = min(nll.n or len(data.raw(nll.split)), len(data.raw(nll.split)))
    of = Of(nll.split, n, min(nll.stride, len(chain)), clip)
    key = f"bound_{len(chain)}" if name == "sampler" else "bound"
    record = _record(subject, choice, chain, of)
    if nll.terms is not None:
        estimate, found.per_datum[f"{key}_estimate"] = likelihood.estimated(subject, choice, chain, of, nll.terms)
        return _of_estimate(estimate, key, record | {"stride": None, "terms": nll.terms}, len(chain))
    bound, found.per_datum[key] = likelihood.measured(subject, choice, chain, of)
    found.bounds[name] = bound
    results = _of_bound(bound, key, record, len(chain))
    of_train = Of("train", min(n, len(data.raw("train"))), min(nll.train_stride, len(chain)), clip)
    if name == "full" and nll.split == "val" and nll.train_stride and of_train.n >= 2 * of_train.stride:
        train, _ = likelihood.measured(subject, choice, chain, of_train)
        results += _gap(bound, train, _record(subject, choice, chain, of_train))
    return results


def _by_flow(subject: Subject, nll: Any, found: Evaluated) -> Result:
    flow, found.per_datum["flow_bpd"] = likelihood.by_flow(subject, nll.split, nll.ode_n, nll.ode_probes, nll.ode_tolerance)
    label = f"bits/dim, probability flow: another model ({flow.n} {SPOKEN[nll.split]} data)"
    record = {
        "unit": "bits/dim", "n": flow.n, "data": nll.split, "seed": subject.seed, "weights": subject.run.weights,
        "checkpoint_sha256": subject.identity["checkpoint_sha256"], "step": subject.run.step, "model": "probability flow",
        "solver": "scipy RK45", "tolerance": nll.ode_tolerance, "probes": flow.probes, "calls": flow.calls,
        "precision": subject.precision, "levels": subject.run.diffusion.levels, "data_sha256": subject.identity["data"],
    }  # fmt: skip
    return Result("flow_bpd", label, flow.total_bpd, flow.total_se, record)


def _record(subject: Subject, choice: Choice, chain: Chain, of: Of) -> dict[str, Any]:
    identity = subject.identity
    return {
        "unit": "bits/dim", "n": of.n, "data": of.split, "seed": subject.seed, "weights": subject.run.weights,
        "checkpoint_sha256": identity["checkpoint_sha256"], "step": subject.run.step, "T": chain.schedule.T,
        "steps": len(chain),
        "spacing": None if len(chain) == chain.schedule.T else choice.sampler.spacing, "variance": choice.variance_name,
        "clip": of.clip, "precision": subject.precision, "levels": subject.run.diffusion.levels, "stride": of.stride,
        "data_sha256": identity["data"],
    } | choice.clipped()  # fmt: skip


def _of_bound(bound: Bound, key: str, record: dict[str, Any], steps: int) -> list[Result]:
    last, told = len(bound.times) - 1, f"{steps} steps ({bound.n} {SPOKEN[record['data']]} data)"
    rows = [
        (key, f"bits/dim, variational bound, {told}", bound.total_bpd, bound.total_se),
        (f"{key}_prior", "    L_T, prior", bound.prior_bpd, None),
        (f"{key}_kl", f"    L_1 .. L_{last}, divergences", bound.kl_bpd, None),
        (f"{key}_mismatch", "        of it, what the variances alone cost", bound.mismatch_bpd, None),
        (f"{key}_decoder", "    L_0, decoder", bound.decoder_bpd, float(bound.terms_se[0])),
    ]  # fmt: skip
    return [Result(key, label, value, error, record) for key, label, value, error in rows]


def _of_estimate(estimate: Estimate, key: str, record: dict[str, Any], steps: int) -> list[Result]:
    told = f"{steps} steps, estimated by {estimate.calls} calls each ({estimate.n} {SPOKEN[record['data']]} data)"
    record |= {"calls": estimate.calls, "squared_error_per_call": estimate.cost_variance}
    rows = [
        (f"{key}_estimate", f"bits/dim, variational bound, {told}", estimate.total_bpd, estimate.total_se),
        (f"{key}_estimate_prior", "    L_T, prior", estimate.prior_bpd, None),
        (f"{key}_estimate_kl", "    divergences", estimate.kl_bpd, estimate.kl_se),
        (f"{key}_estimate_decoder", "    L_0, decoder", estimate.decoder_bpd, estimate.decoder_se),
    ]
    return [Result(key, label, value, error, record) for key, label, value, error in rows]


def _gap(bound: Bound, train: Bound, record: dict[str, Any]) -> list[Result]:
    """How much better training data fare: what the network has learned by heart."""
    label = f"    the same of {train.n} training data, each at every {train.stride}th t"
    error = (bound.total_se**2 + train.total_se**2) ** 0.5
    return [
        Result("bound_train", label, train.total_bpd, train.total_se, record),
        Result("bound_gap", "    held-out above training data", bound.total_bpd - train.total_bpd, error, record),
    ]
