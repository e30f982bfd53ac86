"""Features without a download: those of a small classifier trained on the data's own labels, with a class *reject* for what is
not an image of the data."""

import hashlib
import logging
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_lab.domains import Incompatible, NonNegativeInt, PositiveInt, Size, checked
from ddpm_lab.metrics import cache
from ddpm_lab.metrics.classifier_training import RECIPE, Head, accuracy, convnet, default_epochs, quantise, train
from ddpm_lab.metrics.extractors import WORDS, Metric, of_few

log = logging.getLogger("ddpm_lab")

SURE = 0.8
"""An image is recognised where one class is more probable than this."""


class Labelled(Protocol):
    """A data module of uint8 images N C S S below `levels` with a class for each."""

    levels: int | None
    classes: int | None
    flip: bool
    train_images: Tensor
    val_images: Tensor

    def labels(self, split: str) -> Tensor: ...

    def labels_sha256(self) -> str: ...

    def fingerprint(self) -> str: ...


class Judged(NamedTuple):
    """N×128 features; N×classes logits, without that of *reject*; and which of N are recognised: have one class other than
    *reject* with a probability above 0.8."""

    features: Tensor
    logits: Tensor
    recognised: Tensor


@checked
class Classifier:
    """128 features: the last hidden layer of a convnet trained on the data's classes and *reject* (`non_images`).

    It is trained at first use on the training split by one thread, so that equal seeds give equal weights on one kind of
    machine, and cached by data, seed and recipe. Its name holds the hash of its weights. Each process has its own copy: the
    cached one, or one trained alike. Raises Incompatible for data without labels or grey levels.
    """

    slow = True

    def __init__(
        self, seed: NonNegativeInt = 0, epochs: PositiveInt | None = None, batch: Size = 1024, *, data: Labelled
    ) -> None:
        self.check(data)
        assert data.levels is not None
        self.batch, self._levels, self._classes = batch, data.levels, data.classes
        epochs = default_epochs(len(data.train_images)) if epochs is None else epochs
        training = {
            "trained_on": data.fingerprint(),
            "training_levels": data.levels,
            "training_flip": data.flip,
            "training_seed": seed,
            "training_epochs": epochs,
            "training_recipe": RECIPE,
        }
        key = training | {"classes": data.classes, "labels_sha256": data.labels_sha256()}
        self._net, held_out = _kept_or_trained(key, data, seed, epochs)
        self.sha256 = _hash(self._net.state_dict())
        self.name = f"classifier@{self.sha256[:8]}"
        self.record: dict[str, Any] = training | {"held_out_accuracy": held_out, "weights_sha256": self.sha256}

    @staticmethod
    def check(data: Any) -> None:
        """Raises Incompatible. Needs nothing of the data that has to be read."""
        if not data.labelled or data.levels is None:
            raise Incompatible("a classifier is trained on labels of images, and these data have none", "metrics", "data")

    def __call__(self, x: Tensor) -> Tensor:
        return self.judged(x).features

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """N×128 and N×classes."""
        return self.judged(x)[:2]

    @torch.no_grad()
    def judged(self, x: Tensor) -> Judged:
        """All in one pass, for images in [−1, 1]. Float64 from the last hidden layer on, so free of TF32."""
        self._net.to(x.device)
        parts = []
        for chunk in x.split(self.batch):
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                flat = self._net[0](quantise((chunk.float() + 1) / 2, self._levels)).double()
            head: Head = self._net[1]  # type: ignore[assignment]
            features = F.relu(F.linear(flat, head.hidden.weight.double(), head.hidden.bias.double()))
            parts.append((features, F.linear(features, head.out.weight.double(), head.out.bias.double())))
        features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        sure = logits.softmax(1)[:, : self._classes].amax(1) > SURE
        return Judged(features, logits[:, : self._classes], sure)

    def key(self, n: int, metric: Metric = "fd") -> str:
        return f"classifier_{metric}{of_few(n)}"

    def share_key(self, n: int, name: str) -> str:
        """The key of a share of n samples, as "recognised"."""
        return f"classifier{of_few(n)}_{name}"

    def label(self, n: int, metric: Metric = "fd") -> str:
        return f"{self.name} {WORDS[metric]} {of_few(n)}".rstrip()


def class_shares(logits: Tensor) -> Tensor:
    """Shares of the most likely classes: N×classes → classes, float64."""
    return logits.argmax(1).bincount(minlength=logits.shape[1]).double() / len(logits)


def _kept_or_trained(key: dict[str, Any], data: Labelled, seed: int, epochs: int) -> tuple[nn.Sequential, float]:
    """The network in eval mode, and its accuracy on held-out images."""
    assert data.levels is not None
    assert data.classes is not None
    kept = cache.read_extractor(key) or {}
    try:
        with torch.random.fork_rng(devices=[]):
            net = convnet(tuple(data.train_images.shape[1:]), data.classes)
        net.load_state_dict(kept["state"])
        return net.eval().requires_grad_(False), float(kept["accuracy"])
    except (KeyError, RuntimeError, TypeError, ValueError):  # absent, or damaged: trained again
        pass
    n = len(data.train_images)
    log.info("metrics=classifier: training on %d labelled images, %d epochs; cached for later runs", n, epochs)
    net = train(data.train_images, data.labels("train"), data.classes, data.levels, data.flip, seed, epochs)
    held_out = accuracy(net, data.val_images, data.labels("val"), data.levels)
    log.info("metrics=classifier: accuracy %.1f%% on %d held-out images", 100 * held_out, len(data.val_images))
    cache.write_extractor(key, {"state": net.state_dict(), "accuracy": held_out})
    return net, held_out


def _hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
