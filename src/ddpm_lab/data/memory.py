"""Data sets in memory: batches are gathered, flipped and scaled as tensors. Every batch is a pure function of (seed, batch
number), so that a resumed run needs that number alone."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch, Classes
from ddpm_lab.core.grey import scale
from ddpm_lab.core.transfer import to_device
from ddpm_lab.data.labels import Labels
from ddpm_lab.domains import HalfOpenUnit, NonNegativeInt, OpenUnit, Size
from ddpm_lab.errors import UserError


class Slice(NamedTuple):
    """The part of every batch that one of `world` processes sees, in each of `pieces` pieces."""

    rank: int = 0
    world: int = 1
    pieces: int = 1

    def rows(self, n: int, piece: int = 0) -> tuple[int, int]:
        """First and last + 1 in a batch of n."""
        part, parts = piece * self.world + self.rank, self.pieces * self.world
        return n * part // parts, n * (part + 1) // parts


WHOLE = Slice()


class TrainStream:
    """`steps` batches, counted over the whole run. Epochs are fresh permutations laid end to end, so a batch may span two
    and every datum comes equally often. Keeps its position for Lightning's checkpoints."""

    def __init__(
        self,
        raw: Tensor,
        levels: int | None,
        batch_size: int,
        steps: int,
        seed: int,
        flip: bool,
        part: Slice = WHOLE,
        labels: Labels | None = None,
    ) -> None:
        self.raw, self.levels, self.flip, self.part, self.labels = raw, levels, flip, part, labels
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.position = 0
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        return self.steps * self.part.pieces

    def __iter__(self) -> Iterator[Batch]:
        while self.position < len(self):
            self.position += 1
            yield self.batch(*divmod(self.position - 1, self.part.pieces))

    def batch(self, counter: int, piece: int = 0) -> Batch:
        """This process's part of batch number `counter`."""
        first, stop = self.part.rows(self.batch_size, piece)
        place, rows = self.raw.device, self._rows(counter)[first:stop]
        raw = self.raw.index_select(0, to_device(rows, place))  # twenty times as fast as raw[rows]
        if self.flip:
            mirrored = rng.uniform(self.seed, "flips", counter, first, stop) < 0.5
            chosen = torch.arange(len(raw)) + len(raw) * mirrored
            raw = torch.cat([raw, raw.flip(-1)]).index_select(0, to_device(chosen, place))
        labels = None if self.labels is None else self.labels.drawn(rows, self.seed, counter, first)
        return Batch(scale(raw, self.levels), counter, first, self.batch_size, labels)

    def _rows(self, counter: int) -> Tensor:
        n, start = len(self.raw), counter * self.batch_size
        stop, rows = start + self.batch_size, []
        while start < stop:
            epoch, offset = divmod(start, n)
            taken = self._permutation(epoch)[offset : offset + stop - start]
            rows.append(taken)
            start += len(taken)
        return torch.cat(rows)

    def _permutation(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            self._order = (epoch, rng.permutation(len(self.raw), self.seed, "order", epoch))
        return self._order[1]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class OrderedBatches:
    """Each datum once, in order, with its label where there are any: this process's part of each batch."""

    def __init__(
        self, raw: Tensor, levels: int | None, batch_size: int, part: Slice = WHOLE, labels: Tensor | None = None
    ) -> None:
        self.raw, self.levels, self.batch_size, self.part, self.labels = raw, levels, batch_size, part, labels

    def __len__(self) -> int:
        return math.ceil(len(self.raw) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for counter, rows in enumerate(self.raw.split(self.batch_size)):
            first, stop = self.part.rows(len(rows))
            start = counter * self.batch_size
            labels = None if self.labels is None else self.labels[start + first : start + stop]
            yield Batch(scale(rows[first:stop], self.levels), counter, start + first, len(self.raw), labels)


class InMemory(LightningDataModule):
    """Base of the data modules. A subclass sets `gives` and `levels`, and `load` returns (train, val) as tensors: uint8
    N C H W below `levels`, or float N D where levels is None. `known_side` is the width of its images, or the key that says it,
    where that is known before they are read. One whose data are labelled sets `classes`, how many there are, and in `load`
    `train_labels` and `val_labels`; where they are `conditional`, batches have the labels, of which training hides a share
    `label_dropout`. `seed`, `steps` and `on_device` are given by the composition root; `notes` are lines for the head of the
    log."""

    gives = "images"
    levels: int | None = 256
    known_side: int | str | None = None
    classes: int | None = None
    flip: bool = False
    conditional: bool = False
    label_dropout: float = 0.0
    train_labels: Tensor | None = None
    val_labels: Tensor | None = None

    def __init__(self, batch_size: int, flip: bool = False) -> None:
        super().__init__()
        self.batch_size, self.flip = batch_size, flip
        self.seed, self.steps, self.on_device = 0, 1, False
        self.notes: list[str] = []
        self._loaded = False

    def __post_init__(self) -> None:
        """Of a subclass whose settings are the fields of a dataclass."""
        InMemory.__init__(self, self.batch_size, self.flip)

    def load(self) -> tuple[Tensor, Tensor]:
        """(train, val)."""
        raise UserError(f"data: {type(self).__name__} does not define load().")

    def setup(self, stage: str | None = None) -> None:
        """Raises UserError for data that are not there, and for a class without training data if they are conditional."""
        if not self._loaded:
            self.train_images, self.val_images = self.load()
            self._loaded = True
        if (classes := self.of_classes()) is not None and 0 in classes.counts:
            empty = classes.counts.index(0)
            raise UserError(
                f"data.conditional=true: class {empty} of 0 to {classes.null - 1} has no training data; leave no class "
                "out, or hold other data out"
            )

    def of_classes(self) -> Classes | None:
        """Of conditional data; None for others."""
        if not self.conditional:
            return None
        counts = self.labels("train").bincount(minlength=self.classes or 0)
        return Classes(tuple(counts.tolist()), self.label_dropout)

    @property
    def labelled(self) -> bool:
        """Whether there are labels. Known before the data are read, where the number of classes need not be."""
        return self.classes is not None

    def serve(self, seed: int, steps: int) -> None:
        """A run of `steps` training batches, in the order of `seed`."""
        self.seed, self.steps = seed, steps

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one datum: C H W or D."""
        return tuple(self.train_images.shape[1:])

    def train_dataloader(self) -> TrainStream:
        part, images, classes = self._part(), self.train_images, self.of_classes()
        if self.on_device and self.trainer is not None:
            images = images.to(self.trainer.strategy.root_device)
        labels = None if classes is None else Labels(self.labels("train"), classes.null, classes.dropout)
        return TrainStream(images, self.levels, self.batch_size, self.steps, self.seed, self.flip, part, labels)

    def val_dataloader(self) -> OrderedBatches:
        return self.in_order("val", self.batch_size)

    def in_order(self, split: str, batch_size: int, n: int | None = None) -> OrderedBatches:
        """The first n (None: all) of "train" or "val", each once, without flips: this process's part of each batch."""
        part, condition = self._part()._replace(pieces=1), self.condition(split, 0, n)
        return OrderedBatches(self.raw(split)[:n], self.levels, batch_size, part, *condition)

    def _part(self) -> Slice:
        trainer = self.trainer
        return WHOLE if trainer is None else Slice(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        labels = None if batch.labels is None else to_device(batch.labels, device)
        return batch._replace(x0=to_device(batch.x0, device), labels=labels)

    def scaled(self, split: str, n: int | None = None) -> Tensor:
        """The first n (None: all) of "train" or "val" in [−1, 1]."""
        return scale(self.raw(split)[:n], self.levels)

    def labels(self, split: str) -> Tensor:
        """The class of each of "train" or "val", N int64 in 0..classes−1. Raises UserError for data without labels."""
        labels = self.train_labels if split == "train" else self.val_labels
        if labels is None:
            raise UserError(f"data: {type(self).__name__} has no labels.")
        return labels

    def condition(self, split: str, start: int, stop: int | None) -> tuple[Tensor, ...]:
        """As `Batch.condition`, of data start..stop−1 of a split."""
        return (self.labels(split)[start:stop],) if self.conditional else ()

    @property
    def label_record(self) -> dict[str, Any]:
        """Of conditional data, what records and checkpoints say besides the hash of the contents."""
        return {"labels_sha256": self.labels_sha256()} if self.conditional else {}

    def labels_sha256(self) -> str:
        """Of the labels of both splits."""
        return hashlib.sha256(b"".join(self.labels(split).numpy().tobytes() for split in ("train", "val"))).hexdigest()

    def raw(self, split: str) -> Tensor:
        """All of "train" or "val", not scaled."""
        return self.train_images if split == "train" else self.val_images

    def known_bpd(self) -> float | None:
        """Mean −log2 density per dimension of the validation data, where the density is known: a floor of every bound."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What the data are known by: the contents; and the labels, if they are conditional."""
        return self._known_by

    def load_state_dict(self, state_dict: Any) -> None:
        """Raises UserError for the state of other data, or of none."""
        if not isinstance(state_dict, Mapping) or dict(state_dict) != self._known_by:
            raise UserError("data: these are not the data that the checkpoint was trained on (their contents differ).")

    @cached_property
    def _known_by(self) -> dict[str, Any]:
        return {"sha256": self.fingerprint(), **self.label_record}

    def fingerprint(self) -> str:
        """Of the contents of both splits, without labels: scores of samples are compared whether labels were used or not."""
        digest = hashlib.sha256()
        for images in (self.train_images, self.val_images):
            digest.update(str(tuple(images.shape)).encode() + images.contiguous().numpy().tobytes())
        return digest.hexdigest()


def seeded_split(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of (train, val): a permutation fixed by `seed`, its first ⌈fraction · n⌉ held out."""
    order = rng.permutation(n, seed, "data", 0)
    held = math.ceil(fraction * n - 1e-9)  # .07 · 100 is 7.000000000000001
    if not 0 < held < n:
        raise UserError(f"data.val_fraction={fraction}: of {n} data this leaves none to train on.")
    return order[held:].sort().values, order[:held].sort().values


@dataclass(eq=False, kw_only=True)
class Split(InMemory):
    """Base of the data modules that hold out `val_fraction` of their data, chosen by `split_seed`."""

    val_fraction: OpenUnit = 0.1
    split_seed: NonNegativeInt = 0
    batch_size: Size = 128
    flip: bool = False
    conditional: bool = False
    label_dropout: HalfOpenUnit = 0.1

    def split(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(train, val); their labels, if there are any, are kept."""
        train, held = seeded_split(len(images), self.val_fraction, self.split_seed)
        if labels is not None:
            self.train_labels, self.val_labels = labels[train], labels[held]
        return images[train], images[held]
