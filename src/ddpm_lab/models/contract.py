"""What training, evaluation and comparison ask of a model. They know no more of it than this."""

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ddpm_lab import ranks
from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch, Classes
from ddpm_lab.domains import Given, shown
from ddpm_lab.models.compiling import Compile, compile_by
from ddpm_lab.models.measurement import Conditions, Measurement, Plain, of_any_model
from ddpm_lab.models.meter import Meter
from ddpm_lab.models.readings import Picture, Reading


class Positions(NamedTuple):
    """Where on the model's axis each example of a batch was trained, as the times 1..T of a diffusion model."""

    name: str
    values: Tensor
    """1..count, int64 on the CPU."""
    count: int


class Losses(NamedTuple):
    """The loss of each example of a batch, as named summands, before weighting."""

    parts: dict[str, Tensor]
    weight: Tensor
    """Of each example in the mean over the batch."""
    positions: Positions | None = None

    @property
    def per_example(self) -> Tensor:
        """The sum of the parts."""
        return torch.stack(list(self.parts.values())).sum(0)


class State(NamedTuple):
    """A sample on its way: where it is, in words, and the estimate of the data that this state rests on."""

    label: str
    x: Tensor
    x0: Tensor


class Curve(NamedTuple):
    """A line that describes the model, of at most 400 points."""

    title: str
    alt: str
    x: dict[str, Any]
    """{"label": str, "values": list of float}"""
    y: dict[str, Any]


Itself = TypeVar("Itself", bound="Model")


class Model(nn.Module, ABC):
    """A generative model of data of one `shape` with grey `levels` (None: continuous). `net` holds every weight that is
    trained.

    A constructor names the groups of conf/ that the model is made of as parameters: it is given the object of each, and of
    `net` a factory. By keyword it is given `shape`, `levels`, `seed`, and the whole `config` as plain containers; of
    conditional data also `classes`, and a model that takes none is refused for them.
    """

    net: nn.Module
    sample_in_bf16: bool = False
    """Whether the network samples under bfloat16 autocast."""
    compiled: Compile = False
    """How `compile_net` was called, if it was; a copy of the model has to call it again."""
    no_likelihood: ClassVar[str] = ""
    """Why data have no likelihood under this kind of model, as "an auto-encoder is no distribution"; empty where they have."""
    no_samples: ClassVar[str] = ""
    """Why this kind of model draws none."""
    trains_in_phases: ClassVar[bool] = False
    """Whether a step may leave some weights without a gradient."""
    sample_settings: ClassVar[tuple[str, ...]] = ()
    """What `sampling` takes besides classes."""
    guided: bool = False
    """Whether samples are not those of the model whose likelihood is measured."""
    asked_classes: tuple[int, ...] | None = None
    """Of samples; None draws them by the frequencies of the training data."""

    def __init__(
        self,
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
        classes: Given[Classes | None] = None,
    ) -> None:
        super().__init__()
        self.shape, self.levels, self.seed, self.config, self.classes = tuple(shape), levels, seed, config, classes

    @classmethod
    def untrained_parts(cls, parts: Mapping[str, Any]) -> set[str]:
        """The groups on which training does not depend. `parts`: the class or function of each group of the model."""
        return set()

    # --- training -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def losses(self, batch: Batch) -> Losses:
        """Of each example. Every draw is a function of (seed, batch.counter, row)."""

    @property
    def learns(self) -> bool:
        """Whether `update` wants to see the losses of every batch."""
        return False

    def update(self, positions: Tensor, per_example: Tensor) -> None:
        """Learn from the losses of a whole batch, in the order of its rows, before weighting. A GPU may
        still be computing `per_example`."""

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed run must know besides the weights."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""

    # --- samples --------------------------------------------------------------------------------------------------------

    @property
    def sample_steps(self) -> int:
        """States that `sample_states` gives."""
        return 1

    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        """The states of samples start..stop−1 on their way to data; the last is x_0. Sample i depends on (seed, i) alone, and
        the training state is untouched. Raises ValueError for a model that draws none."""
        raise ValueError(f"{type(self).__name__} draws no samples: {self.no_samples}")

    def sampling(self: Itself, *, classes: Sequence[int] | None = None, **settings: Any) -> Itself:
        """The same model, sharing its weights, that samples by other settings; those that are None stay. `classes`: sample i is
        of the class classes[i mod their number], as [3] for samples of class 3 alone. Raises ValueError for settings that it
        does not have, and for classes that are not those of its data."""
        if asked := [name for name, value in settings.items() if value is not None]:
            raise ValueError(f"{asked[0]}={settings[asked[0]]}: {type(self).__name__} has no such setting of its samples")
        if classes is None:
            return self
        known = range(0 if self.classes is None else self.classes.null)
        if not classes or not set(classes) <= set(known):
            allowed = f"one or more of 0 to {known[-1]}" if known else "none, as it was trained without classes"
            raise ValueError(f"classes={shown(list(classes))}: allowed is {allowed}")
        other = copy.copy(self)
        other.asked_classes = tuple(classes)
        return other

    def sample_classes(self, start: int, stop: int, seed: int = 0) -> Tensor | None:
        """The classes of samples start..stop−1 of a conditional model, int64 on the CPU. That of sample i depends on (seed, i)
        alone: a draw by the frequencies of the training data, or what `sampling` was asked for."""
        if self.classes is None:
            return None
        if self.asked_classes is not None:
            return torch.tensor(self.asked_classes)[torch.arange(start, stop) % len(self.asked_classes)]
        up_to = torch.tensor(self.classes.counts, dtype=torch.float64).cumsum(0)
        u = rng.uniform(seed, "classes", 0, start, stop)
        return torch.searchsorted(up_to, u * up_to[-1], right=True)

    def sample(self, n: int, seed: int = 0, batch: int = 256) -> Tensor:
        """n samples, n × shape, in [−1, 1] for images. Several processes share the work, and all get all samples."""
        none = torch.empty(0, *self.shape, device=self.device)
        return ranks.rows(torch.cat([none, *self.sample_batches(n, seed, batch)]))

    def sample_batches(self, n: int, seed: int = 0, batch: int = 256) -> Iterator[Tensor]:
        """This process's share of the same samples, in batches, each made when it is asked for."""
        first, end = ranks.share(n)
        for start in range(first, end, batch):
            for state in self.sample_states(start, min(start + batch, end), seed):
                final = state.x
            yield final

    # --- likelihood -----------------------------------------------------------------------------------------------------

    @property
    def given(self) -> str:
        """What a likelihood is conditional on, in words before its name."""
        return "" if self.classes is None else "given the class, "

    @property
    def bound_terms(self) -> int:
        """Terms that `bound_meter` measures of each datum at stride 1."""
        return 1

    def bound_meter(self, stride: int = 1, seed: int = 0) -> Meter:
        """Measures every stride-th term of each datum. Raises ValueError for a model under which data have no likelihood."""
        raise ValueError(f"{type(self).__name__} gives data no likelihood: {self.no_likelihood}")

    def bound_estimator(self, pilot: Meter, terms: int, seed: int = 0) -> Meter:
        """Estimates the bound, without bias, from few terms of each datum, drawn where `pilot` saw large ones. A model with few
        terms measures all."""
        return self.bound_meter(1, seed)

    def with_variance(self: Itself, variance: Any) -> Itself:
        """The same weights under another reverse variance. Raises ValueError for a model that has none."""
        raise ValueError(f"{type(self).__name__} has no reverse variance")

    def measurements(self, conditions: Conditions) -> list[Measurement]:
        """What evaluation measures of its likelihood. Raises ValueError for conditions that the model does not know."""
        return of_any_model(self, conditions)

    # --- what else there is to see --------------------------------------------------------------------------------------

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        """What else is measured of held-out data, by key."""
        return {}

    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        """What this kind of model has to show besides samples, by the name of the file. x0: some held-out data."""
        return {}

    # --- speed ----------------------------------------------------------------------------------------------------------

    def compile_net(self, how: Compile = True) -> None:
        """By torch.compile, at the first call of the network. Raises ValueError for a model whose network is never called as a
        whole, which would stay as it is."""
        if type(self.net).forward is nn.Module.forward:
            raise ValueError(f"{type(self).__name__} has no network that torch.compile could take as a whole")
        self.compiled = how
        compile_by(self.net, how)

    # --- description ----------------------------------------------------------------------------------------------------

    def curves(self) -> list[Curve]:
        """What can be plotted of the model as it is."""
        return []

    def card(self, x0: Tensor) -> list[str]:
        """Lines for the head of the log. x0: some training data."""
        return []

    def sample_record(self) -> dict[str, Plain]:
        """How samples come about: the fields of `metrics.record.FIELDS` that apply."""
        return {}

    def bound_record(self) -> dict[str, Plain]:
        """The same of the likelihood, but for what is a meter's choice."""
        return {}

    def numerics(self, samples: bool = False) -> dict[str, Plain]:
        """With how many digits the model computes, and the grey levels of its data: fields of the same records."""
        precision = "bf16-mixed" if samples and self.sample_in_bf16 else str(self.dtype).removeprefix("torch.")
        on_gpu, cudnn = self.device.type == "cuda", torch.backends.cudnn
        flags = {"tf32": on_gpu and cudnn.allow_tf32, "cudnn_benchmark": on_gpu and cudnn.benchmark}
        return {"levels": self.levels, "precision": precision, **flags}

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.net.parameters()).dtype


def named(choice: object) -> str:
    """A choice as records name it, by its class: BetaTilde is beta_tilde, DDIM is ddim, EDMChurn is edm_churn."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(choice).__name__).lower()
