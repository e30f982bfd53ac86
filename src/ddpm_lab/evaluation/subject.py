"""What is measured: a trained model with its data, and the choices it is measured under."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_lab.core.grey import scale
from ddpm_lab.core.transfer import like, to_device
from ddpm_lab.data.memory import InMemory
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.store import Store
from ddpm_lab.files import sha256
from ddpm_lab.models.contract import Model
from ddpm_lab.models.measurement import Conditions, Likelihood
from ddpm_lab.models.run import Run


@dataclass
class Subject:
    """A trained model, the data of its run, which are read when they are first used, and the store of what is measured."""

    run: Run
    load_data: Callable[[], InMemory]
    checkpoint: Path
    seed: int
    batch: int
    store: Store

    @cached_property
    def data(self) -> InMemory:
        return self.load_data()

    @cached_property
    def of_network(self) -> dict[str, Any]:
        """What every sample depends on besides how it is drawn."""
        return {
            "checkpoint_sha256": sha256(self.checkpoint),
            **self.run.of_weights,
            "seed": self.seed,
            "precision": self.run.model.numerics()["precision"],
            **self.compiled,
        }

    @property
    def compiled(self) -> dict[str, Any]:
        """How the network is compiled, where it is: sums then have another order, and samples take another time."""
        return {"compile": self.run.model.compiled} if self.run.model.compiled else {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What every measurement of this model on its data depends on."""
        return self.of_network | {"data": self.data.fingerprint(), **self.data.label_record}

    @property
    def of_run(self) -> dict[str, Any]:
        """The fields of records that say which weights they are of."""
        trained = {} if self.run.imported is None else {"trained": "imported"}
        return {"seed": self.seed, **self.run.of_weights, "step": self.run.step, **trained}

    @property
    def record(self) -> dict[str, Any]:
        """The fields that the records of all its numbers share."""
        files = {"checkpoint_sha256": self.identity["checkpoint_sha256"], "data_sha256": self.identity["data"]}
        return self.of_run | files | self.run.model.numerics()

    @property
    def line(self) -> str:
        origin = f"imported ({self.run.imported})" if self.run.imported is not None else f"step {self.run.step}"
        return f"{self.checkpoint}, {origin}, weights {self.run.described_weights}, seed {self.seed}"

    @property
    def device(self) -> torch.device:
        return self.run.model.device

    @cached_property
    def largest_eigenvalue(self) -> float:
        """Of the covariance of the training data, of at most the first 4,096."""
        x = scale(self.data.raw("train")[:4096], self.data.levels).double().flatten(1)
        x = x - x.mean(0)
        small = x.T @ x if x.shape[1] <= len(x) else x @ x.T  # they have the same eigenvalues but for zeros
        largest = float(torch.linalg.eigvalsh(small)[-1]) / (len(x) - 1)
        return float(f"{largest:.6g}")  # its last digits depend on the number of threads

    def of_set(self, number: int) -> "Subject":
        """The same with the sampling seed of the set of samples of this number, from 1 on."""
        return replace(self, seed=self.seed + number, load_data=lambda: self.data)

    def size(self, split: str) -> int:
        return len(self.data.raw(split))

    def check_sizes(self, nll: Likelihood, n_samples: int, n_gamma: int | None) -> None:
        """Raises UserError where more data are asked for than there are, or too few for a statistic. `n_gamma`: data for Γ."""
        size, train = self.size(nll.split), self.size("train")
        if nll.n is not None and nll.n > size:
            raise UserError(f"nll.n={nll.n}: the {nll.split} split has {size} data; null takes all")
        if nll.ode_n > size or nll.ode_n == 1:
            raise UserError(f"nll.ode_n={nll.ode_n}: allowed is 0, or 2 to the {size} data of the {nll.split} split")
        if n_samples == 1:
            raise UserError("quality.n=1: one sample has no covariance; allowed is 0 for none, or 2 and more")
        if n_gamma is not None and n_gamma > train:
            raise UserError(f"gamma.n={n_gamma}: there are {train} training data")

    def x0(self, split: str, start: int, stop: int) -> Tensor:
        """Data start..stop−1 of a split, in [−1, 1], as the network takes them."""
        return like(scale(self.data.raw(split)[start:stop], self.data.levels), next(self.run.net.parameters()))

    def condition(self, split: str, start: int, stop: int) -> tuple[Tensor, ...]:
        """As `Batch.condition`, of the same data."""
        return tuple(to_device(part, self.device) for part in self.data.condition(split, start, stop))

    def conditions(self, likelihood: Likelihood, parts: Mapping[str, Any]) -> Conditions:
        sizes = {split: self.size(split) for split in ("train", "val")}
        return Conditions(likelihood, self.seed, self.batch, sizes, parts)


@dataclass
class Choice:
    """The model under the parts that were chosen for evaluation, sharing its weights.

    By group: `names`, the options; `parts`, their configurations, which numbers depend on; `details`, more fields of records.
    `tables`: columns to be written beside the numbers, by name.
    """

    model: Model
    names: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return self.model.sample_steps

    @property
    def record_of_samples(self) -> dict[str, Any]:
        """How samples are drawn."""
        record = self.model.sample_record()
        used = [fields for group, fields in self.details.items() if record.get(group) is not None]
        return {**record, **self.precision, **{name: value for fields in used for name, value in fields.items()}}

    @property
    def precision(self) -> dict[str, Any]:
        """Of samples, where it is not that of the network."""
        return {"precision": self.model.numerics(samples=True)["precision"]} if self.model.sample_in_bf16 else {}

    @property
    def of_samples(self) -> dict[str, Any]:
        """All that samples depend on besides the checkpoint. A part that the record of samples has as None is not used."""
        record = self.model.sample_record()
        parts = {
            group: None
            if group in record and record[group] is None
            else {key: value for key, value in part.items() if group != "sampler" or key not in record}
            for group, part in self.parts.items()
        }
        return {"parts": parts, "record": record, "levels": self.model.levels, **self.precision}

    @property
    def names_of_samples(self) -> dict[str, str]:
        """The names, with "any" for a part that samples do not depend on."""
        record = self.model.sample_record()
        return {group: "any" if record.get(group, name) is None else name for group, name in self.names.items()}
