"""The keys outside the groups, as signatures: what conf/config.yaml, conf/evaluate/config.yaml and conf/sweep/ may hold."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from ddpm_lab.domains import FolderName, FolderPath, NonNegativeInt, PositiveInt, Text


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
    settings: list[Text] = field(default_factory=list)


@dataclass
class Gamma:
    n: Annotated[int, Ge(2)] = 256


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


def sections(evaluation: bool) -> dict[str, type]:
    """Signatures by their place in the root's file; "" for its top level."""
    if not evaluation:
        return {"": Train, "run": Run}
    from ddpm_lab.evaluation.quality import Quality
    from ddpm_lab.models.measurement import Likelihood

    return {"": Evaluate, "nll": Likelihood, "quality": Quality, "gamma": Gamma}
