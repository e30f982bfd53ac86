"""Judge generated 8x8 digits: are they recognisable, is every class there, are they copies?

python tests/digit_judge.py SAMPLES.npz      key `samples`, [n, 1, 8, 8]: float in [-1, 1], or uint8 levels 0..16

Everything is rounded to the 17 grey levels of scikit-learn's digits. A convnet learns, from the training images alone,
ten digits and an eleventh class, *reject*. A sample passes if one digit has probability > 0.8. Non-digits for checking
have other seeds and permutations than those trained on, and come from held-out digits. Distances are over 64 pixels.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddpm_lab.metrics.non_images import FAMILIES as NEGATIVES
from ddpm_lab.metrics.non_images import averaged_pair, between, gaussian_noise, halves, shuffled  # noqa: F401

LEVELS = 16
REJECT = 10
THRESHOLD = 0.8
MIN_CLASS_SHARE = 0.04
CHECK_SEED = 1_000_003  # added to the seed, so that no check repeats a draw of training


def quantise(x: Tensor) -> Tensor:
    return (x * LEVELS).round().clamp(0, LEVELS) / LEVELS


def to_unit(samples: Tensor) -> Tensor:
    """Levels 0..16 (uint8), or floats in [-1, 1] rounded to those levels, as float32 in [0, 1]."""
    if samples.shape[1:] != (1, 8, 8) or len(samples) == 0:
        raise ValueError(f"samples have shape {tuple(samples.shape)}: give [n, 1, 8, 8], n > 0.")
    if samples.dtype == torch.uint8 and samples.max() <= LEVELS:
        return samples.float() / LEVELS
    if not samples.is_floating_point():
        raise ValueError(f"samples are {samples.dtype}, up to {samples.max()}: give uint8 0..16 or floats in [-1, 1].")
    if not samples.abs().max() <= 1 + 1e-3:  # written so that NaN fails too
        raise ValueError("samples leave [-1, 1] or are not finite: use samples.clamp(-1, 1) if that is the protocol.")
    return quantise((samples.float() + 1) / 2)


def checks(family: Callable, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Four times as many images of one family, in [0, 1], from other seeds (and permutations) than training's."""
    generators = [Generator().manual_seed(seed + CHECK_SEED + draw) for draw in range(4)]
    return quantise(torch.cat([family(to_unit(images), labels, g) for g in generators]))


def _convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(48 * 16, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, REJECT + 1),
    )


def train_classifier(images: Tensor, labels: Tensor, seed: int = 0, epochs: int = 20) -> nn.Module:
    """Ten digits and *reject*: each epoch, as many fresh negatives as digits. The global RNG is left alone."""
    g = Generator().manual_seed(seed)
    x, targets = to_unit(images), torch.cat([labels, torch.full_like(labels, REJECT)])
    weight = torch.tensor([1.0] * REJECT + [0.5])  # weighted equally, up to 5% of real digits are rejected; so, 3 to 4%
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _convnet().train()
        optim = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
        lr = torch.optim.lr_scheduler.OneCycleLR(optim, 3e-3, epochs * -(-2 * len(x) // 128))
        for _ in range(epochs):
            not_digits = torch.cat([family(x, labels, g) for family in NEGATIVES])
            not_digits = not_digits[torch.randperm(len(not_digits), generator=g)[: len(x)]]
            digits = x + between(x, 0, 0.05, g) * torch.randn(x.shape, generator=g)  # < 1 level: rounding is no fault
            inputs = quantise(torch.cat([digits, not_digits]))
            for batch in torch.randperm(len(inputs), generator=g).split(128):
                loss = F.cross_entropy(net(inputs[batch]), targets[batch], weight)
                optim.zero_grad()
                loss.backward()
                optim.step()
                lr.step()
    return net.eval()


@torch.no_grad()
def best_digit(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """For images in [0, 1]: the probability of the likeliest of the ten digits, and which it is."""
    return tuple(net(x).softmax(1)[:, :REJECT].max(1))


def pass_rate(net: nn.Module, x: Tensor) -> float:
    """Share of the images in which one of the ten digits has probability > 0.8."""
    return (best_digit(net, x)[0] > THRESHOLD).float().mean().item()


def class_shares(net: nn.Module, x: Tensor) -> list[float]:
    """Share of each digit among the images that pass; zeros if none does."""
    probability, digit = best_digit(net, x)
    counts = digit[probability > THRESHOLD].bincount(minlength=REJECT)
    return (counts / counts.sum().clamp(min=1)).tolist()


def compare_distances(x: Tensor, held_out: Tensor, train: Tensor) -> dict:
    """L2 over 64 pixels from each image to the nearest training image: samples against held-out digits."""
    exact = "donot_use_mm_for_euclid_dist"  # so that a copy is at 0
    a, b = (torch.cdist(y.flatten(1), train.flatten(1), compute_mode=exact).amin(1) for y in (x, held_out))
    return {
        "samples": [a.quantile(q).item() for q in (0.25, 0.5, 0.75)],
        "held_out": [b.quantile(q).item() for q in (0.25, 0.5, 0.75)],
        "ratio_of_medians": (a.quantile(0.5) / b.quantile(0.5)).item(),
        "share_nearer_than_p01": (a < b.quantile(0.01)).float().mean().item(),
        "ks": float(ks_2samp(a.numpy(), b.numpy()).statistic),
    }


def judge(
    samples: Tensor,
    train_images: Tensor,
    held_out_images: Tensor,
    train_labels: Tensor,
    held_out_labels: Tensor,
    seed: int = 0,
    classifier: nn.Module | None = None,
) -> dict:
    """The three questions as plain numbers. Give `classifier` (from `train_classifier`) to judge several sets."""
    x, train, held_out = to_unit(samples), to_unit(train_images), to_unit(held_out_images)
    net = train_classifier(train_images, train_labels, seed) if classifier is None else classifier
    checked = {"noise": gaussian_noise, "shuffled": shuffled, "averaged_pairs": averaged_pair}
    others = {name: checks(family, held_out_images, held_out_labels, seed) for name, family in checked.items()}
    rated, shares = {"samples": x, "held_out": held_out, **others}, class_shares(net, x)
    return {
        "n": {"samples": len(x), "train": len(train), "held_out": len(held_out)},
        "held_out_accuracy": (best_digit(net, held_out)[1] == held_out_labels).float().mean().item(),
        "pass_rate": {name: pass_rate(net, group) for name, group in rated.items()},
        "class_shares": shares,
        "every_class_present": min(shares) >= MIN_CLASS_SHARE,
        "distance": compare_distances(x, held_out, train),
    }


def load_split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The project's own split, in the order of `judge`: train and held-out images, train and held-out labels."""
    from ddpm_lab.data.digits import Digits

    data = Digits()
    data.setup("fit")
    return data.train_images, data.val_images, data.train_labels, data.val_labels


def report(result: dict) -> str:
    """A short table of what `judge` returns."""
    n, rates, d = result["n"], result["pass_rate"], result["distance"]
    columns = {"samples": "samples", "held_out": "held-out real digits", "noise": "noise", "shuffled": "shuffled"}
    titles, values = " | ".join(columns.values()), " | ".join(f"{rates[k]:>{len(v)}.1%}" for k, v in columns.items())
    shares = "  ".join(f"{digit}: {share:.1%}" for digit, share in enumerate(result["class_shares"]))
    near, near_held_out = (" ".join(f"{q:.2f}" for q in d[k]) for k in ("samples", "held_out"))
    return f"""{n["samples"]} samples; {n["train"]} training and {n["held_out"]} held-out digits; \
classifier right on {result["held_out_accuracy"]:.1%} of held-out
              {titles}
recognisable  {values}
classes       {shares}  (each >= {MIN_CLASS_SHARE:.0%}: {"yes" if result["every_class_present"] else "no"})
nearest       quartiles {near}, held-out {near_held_out}; \
medians x{d["ratio_of_medians"]:.2f}; nearer than 1st percentile {d["share_nearer_than_p01"]:.1%}; KS {d["ks"]:.2f}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", type=Path, metavar="SAMPLES.npz")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in the tests: sums are the same on every machine
    with np.load(args.npz) as file:
        samples = torch.from_numpy(file["samples"])
    print(report(judge(samples, *load_split())))


if __name__ == "__main__":
    main()
