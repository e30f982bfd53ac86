"""Classes go with their rows through every meter; guidance is that of the mixture whose components are known."""

import math

import pytest
import torch
from torch import Tensor

from ddpm_lab.core.batch import Classes
from ddpm_lab.core.diffusion import GaussianDiffusion, implied_eps
from ddpm_lab.core.guidance import ClassifierFree, Conditional, Guidance, Unguided, of_rows
from ddpm_lab.core.sampler import DDIM, Ancestral, draw
from ddpm_lab.core.schedule import linear
from ddpm_lab.core.types import Incompatible
from ddpm_lab.likelihood.bound import BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator
from ddpm_lab.likelihood.flow import FlowMeter
from ddpm_lab.likelihood.gamma import GammaMeter

from .edm_reference import preconditioning
from .support import assert_close, make, options

F64, T, NULL = torch.float64, 12, 3
SCHEDULE = linear(T, beta_start=0.02, beta_end=0.6)
MEANS = torch.tensor([[0.9, -0.2], [-0.7, 0.5], [0.1, 1.1]], dtype=F64)
SHARES = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
STD = 0.3


def log_p(x: Tensor, t: Tensor) -> Tensor:
    """log p_t(x, c) of each component, B×3, in nats."""
    ab = SCHEDULE.alphas_bar[t.long()][:, None]
    var = ab * STD**2 + 1 - ab
    squared = ((x[:, None] - ab[..., None].sqrt() * MEANS) ** 2).sum(2)
    return SHARES.log() - squared / (2 * var) - torch.log(2 * math.pi * var)


def score(x: Tensor, t: Tensor, of) -> Tensor:
    """∇ of a function of log p_t(x, ·), by automatic differentiation."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(of(log_p(x, t)).sum(), x)[0]


def exact_eps(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """The best ε̂ given the class, or given none for NULL."""
    ab = SCHEDULE.alphas_bar[t.long()][:, None, None]
    of_each = (1 - ab).sqrt() * (x[:, None] - ab.sqrt() * MEANS) / (ab * STD**2 + 1 - ab)
    known = torch.nn.functional.one_hot(labels, NULL + 1)[:, :NULL].to(x)
    weights = torch.where((labels == NULL)[:, None], log_p(x, t).softmax(1), known)
    return (weights[..., None] * of_each).sum(1)


def diffusion_of(prediction: str = "eps", variance: str = "beta") -> GaussianDiffusion:
    return GaussianDiffusion(SCHEDULE, make("prediction", prediction), make("variance", variance), levels=None)


def network_of(prediction: str, variance: str = "beta"):
    """The exact network in another prediction; raw outputs for a variance differ between classes."""
    diffusion = diffusion_of(prediction, variance)

    def net(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        if prediction == "edm":  # told ¼ ln σ and given c_in x_t/√ᾱ
            sigmas = (1 / SCHEDULE.alphas_bar[1:] - 1).sqrt()
            t = (sigmas - torch.exp(4 * t)[:, None]).abs().argmin(1) + 1
            skip, scale, c_in, _ = torch.tensor([preconditioning(s) for s in sigmas[t - 1].tolist()], dtype=x.dtype).T[
                ..., None
            ]
            x = x * SCHEDULE.alphas_bar[t][:, None].sqrt() / c_in
        step, eps = diffusion.chain.step(t.cpu(), x), exact_eps(x, t, labels)
        a, b = step.at_t.signal_scale, step.at_t.noise_scale
        x0 = (x - b * eps) / a
        if prediction == "edm":
            out = (x0 - skip * x / a) / scale
        else:
            out = {"eps": eps, "x0": x0, "v": a * eps - b * x0, "mu": step.mu(x0, x)}[prediction]
        raw = [(labels[:, None] - 1.0).expand_as(x).to(x)] if diffusion.variance.n_outputs == 2 else []
        return torch.cat([out, *raw], 1)

    return net


def points(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=g)
    return MEANS[labels] + STD * torch.randn(n, 2, generator=g, dtype=F64), labels


# --- classes go with their rows --------------------------------------------------------------------------------------------

N = 7


def smooth(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Of time too, which the flow's solver asks for between whole numbers."""
    return 0.5 * x + MEANS[labels] * torch.sin(t / 5)[:, None]


def meters():
    diffusion, chain = diffusion_of(), diffusion_of().chain
    p = torch.full((T,), 1 / (T - 1), dtype=F64).index_fill(0, torch.tensor(0), 0)
    return {
        "bound": lambda: BoundMeter(diffusion, chain, 1, 0, batch=5),
        "strided bound": lambda: BoundMeter(diffusion, chain, 3, 0, batch=4),
        "estimate": lambda: BoundEstimator(diffusion, chain, p, k=3, batch=5),
        "gamma": lambda: GammaMeter(diffusion, (2, 7, 12), batch=16),
        "flow": lambda: FlowMeter(diffusion, probes=None),
    }


@pytest.mark.parametrize(
    ("kind", "field"), {"bound": "sums", "strided bound": "sums", "estimate": "kl", "gamma": "sums", "flow": "bpd"}.items()
)
def test_a_meter_of_mixed_classes_measures_each_datum_under_its_own(kind, field):
    """The loop gives one datum at a time to a network that knows no other class."""
    made, (x0, labels) = meters()[kind], points(N)
    together, apart, other = made(), made(), made()
    together.add(Conditional(smooth, labels), x0, 60)  # over the end of a block of draws
    other.add(Conditional(smooth, labels.roll(1)), x0, 60)
    for i in range(N):
        apart.add(lambda x, t, i=i: smooth(x, t, labels[i : i + 1].expand(len(x))), x0[i : i + 1], 60 + i)
    for name, value in together.tally._asdict().items():
        if name != "calls":  # of the solver, whose steps data share
            expected = torch.as_tensor(getattr(apart.tally, name)).nan_to_num()
            assert_close(torch.as_tensor(value).nan_to_num(), expected, 1e-4 if kind == "flow" else 1e-9)
    one, two = (getattr(meter.tally, field).nan_to_num() for meter in (together, other))
    assert not torch.allclose(one, two, rtol=0.01)


def test_rows_are_reordered_and_repeated_with_their_classes():
    x0, labels = points(N)
    rows, t = torch.tensor([3, 0, 0, 6]), torch.full((N,), 4)
    net = Conditional(exact_eps, labels)
    assert torch.equal(of_rows(net, rows)(x0[rows], t[rows]), net(x0, t)[rows])
    assert of_rows(abs, rows) is abs


def test_the_class_is_worth_what_it_tells_about_the_data():
    """With exact networks the bound given the class lies below the other by about I(x; c), and above the true density."""
    x0, labels = points(4000)
    at = {}
    for name, given in {"class": labels, "none": torch.full_like(labels, NULL)}.items():
        meter = BoundMeter(diffusion_of(), diffusion_of().chain, stride=4)
        meter.add(Conditional(exact_eps, given), x0, 0)
        at[name] = meter.result()
    joint = log_p(x0, torch.zeros(len(x0)))
    told = joint.gather(1, labels[:, None]).squeeze(1) - SHARES.log()[labels]
    bits = {"class": float(-told.mean()) / (2 * math.log(2)), "none": float(-joint.logsumexp(1).mean()) / (2 * math.log(2))}
    error = 4 * (at["class"].total_se + at["none"].total_se)
    assert all(at[name].total_bpd > bits[name] - error for name in bits)
    assert at["none"].total_bpd - at["class"].total_bpd == pytest.approx(bits["none"] - bits["class"], abs=error)
    assert bits["none"] - bits["class"] > 2 * error


# --- guidance --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
@pytest.mark.parametrize("prediction", options("prediction"))
def test_guided_outputs_of_any_prediction_are_the_tilted_score(prediction, scale):
    """Ho & Salimans 2022: ∇ log p(x) + scale · ∇ log p(c | x), with the classifier that Bayes' rule gives."""
    diffusion, (x, labels) = diffusion_of(prediction), points(N, 3)
    net = Conditional(network_of(prediction), labels, ClassifierFree(scale), NULL)
    denoise = diffusion.denoiser(net, diffusion.chain, clip=False)
    for t in (1, 5, T):
        step, times = diffusion.chain[t], torch.full((N,), t)
        eps = implied_eps(denoise(x, t).x0, x, step.at_t)
        free = score(x, times, lambda joint: joint.logsumexp(1))
        posterior = score(x, times, lambda joint: joint.log_softmax(1).gather(1, labels[:, None]))
        assert_close(eps, -step.at_t.noise_scale * (free + scale * posterior), 1e-7, 1e-7)


def test_the_variance_is_that_of_the_class():
    diffusion, (x, labels) = diffusion_of("eps", "learned_range"), points(N, 4)
    plain, guided = (
        diffusion.denoiser(Conditional(network_of("eps", "learned_range"), labels, guidance, NULL), diffusion.chain, False)(
            x, 6
        )
        for guidance in (Unguided(), ClassifierFree(3.0))
    )
    assert torch.equal(plain.seen.raw, guided.seen.raw)
    assert not torch.allclose(plain.x0, guided.x0)


def sampled(guidance: Guidance, sampler, labels: Tensor, net=exact_eps, n: int = 16) -> Tensor:
    given = Conditional(net, labels, guidance, NULL)
    states = draw(sampler, diffusion_of(), given, (2,), seed=1, start=0, stop=n, like=MEANS)
    return [state.x for state in states][-1]


class Counting:
    """Rows of each call of the network."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        self.rows[int(t[0])] = len(x)
        assert (labels[16:] == NULL).all()
        return exact_eps(x, t, labels)


def test_guidance_acts_within_its_interval_in_one_pass_of_both_branches():
    log_snr = torch.logit(SCHEDULE.alphas_bar)
    low, high = float(log_snr[9]), float(log_snr[4])
    labels, net = points(16, 2)[1], Counting()
    inside = sampled(ClassifierFree(3.0, (low - 1e-9, high + 1e-9)), DDIM(steps=None), labels, net)
    assert net.rows == {t: 32 if 4 <= t <= 9 else 16 for t in range(1, T + 1)}
    everywhere, nowhere = (sampled(guidance, DDIM(steps=None), labels) for guidance in (ClassifierFree(3.0), Unguided()))
    assert not torch.allclose(inside, everywhere)
    assert not torch.allclose(inside, nowhere)


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(steps=5), DDIM(steps=5, eta=1.0)], ids=["ancestral", "ddim", "eta1"])
def test_guidance_without_effect_is_one_branch_to_the_bit(sampler):
    labels, counted = points(16, 2)[1], Counting()
    plain = sampled(Unguided(), sampler, labels)
    never = ClassifierFree(4.0, (50.0, 60.0))
    assert torch.equal(sampled(ClassifierFree(1.0), sampler, labels, counted), plain)
    assert torch.equal(sampled(never, sampler, labels), plain)
    assert set(counted.rows.values()) == {16}
    assert not torch.allclose(sampled(ClassifierFree(4.0), sampler, labels), plain)


def test_samples_are_of_their_classes_and_more_so_under_guidance():
    labels = torch.arange(300) % 3
    right, spread = {}, {}
    for scale in (0.0, 1.0, 3.0):
        x = sampled(ClassifierFree(scale), Ancestral(), labels, n=300)
        right[scale] = float((log_p(x, torch.zeros(300)).argmax(1) == labels).double().mean())
        spread[scale] = float((x - MEANS[labels]).std())
    assert right[0.0] < 0.6 < 0.9 < right[1.0] <= right[3.0]
    assert right[3.0] > 0.98
    assert spread[1.0] == pytest.approx(STD, rel=0.15)


def test_a_schedule_that_ends_without_signal_is_guided_there_only_without_an_interval():
    chain = make("schedule", "zero_terminal_snr", T=5).chain()
    assert ClassifierFree(2.0).acts(chain[5])
    assert not ClassifierFree(2.0, (-100.0, 100.0)).acts(chain[5])
    assert ClassifierFree(2.0, (-100.0, 100.0)).acts(chain[4])


def test_guidance_asks_for_classes_and_for_examples_without_them():
    trained, never_hidden = Classes((5, 5), 0.1), Classes((5, 5), 0.0)
    for classes in (trained, never_hidden, None):
        Unguided().check(classes)
        ClassifierFree(1.0).check(classes)
    ClassifierFree(2.0).check(trained)
    for classes, word in ((None, "conditional"), (never_hidden, "label_dropout=0")):
        with pytest.raises(Incompatible, match=word) as refusal:
            ClassifierFree(2.0).check(classes)
        assert "scale=2.0" in str(refusal.value)
        assert refusal.value.arguments == ("guidance", "data")
    with pytest.raises(ValueError, match=r"interval=\[3.0, 1.0\]"):
        ClassifierFree(2.0, (3.0, 1.0))
