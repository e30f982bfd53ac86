"""The keys outside the groups, as signatures: what conf/config.yaml, conf/evaluate/config.yaml and conf/sweep/ may hold."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from ddpm_lab.domains import File, FolderName, FolderPath, NonNegativeInt, PositiveFloat, PositiveInt, Text

AtLeastTwo = Annotated[int, Ge(2)]


@dataclass
class Train:
    seed: NonNegativeInt = 0
    resume: Text | None = None


@dataclass
class Run:
    root: Text = "outputs"
    experiment: FolderPath | None = None
    name: FolderName | None = None
    trained_in: Text | None = None


@dataclass
class Evaluate:
    ckpt: Text
    weights: Text | None = None
    seed: NonNegativeInt = 0
    name: FolderName | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: PositiveInt = 256


@dataclass
class Likelihood:
    split: Literal["train", "val"] = "val"
    n: AtLeastTwo | None = None
    chain: Literal["full", "sampler", "both"] = "both"
    stride: PositiveInt = 1
    terms: PositiveInt | None = None
    clip: bool | None = None
    train_stride: NonNegativeInt = 10
    ode_n: NonNegativeInt = 0
    ode_probes: PositiveInt | None = 1
    ode_tolerance: PositiveFloat = 1e-5


@dataclass
class Quality:
    n: NonNegativeInt = 1000
    reference: Literal["train", "val"] = "train"
    statistics: File | None = None
    grid: NonNegativeInt = 64


@dataclass
class Gamma:
    n: AtLeastTwo = 256


@dataclass
class Sweep:
    name: FolderName | None = None
    n_jobs: PositiveInt | None = None
    show: bool = False
    arms: list[Text] = field(default_factory=list)


@dataclass
class Search(Sweep):
    trials: PositiveInt = 20
    metric: Text = "bound_bpd"
    method: Literal["tpe", "random"] = "tpe"
    seed: NonNegativeInt = 0


TRAIN: dict[str, type] = {"": Train, "run": Run}
EVALUATE: dict[str, type] = {"": Evaluate, "nll": Likelihood, "quality": Quality, "gamma": Gamma}
"""By the place in the root's file; "" for its top level."""
