"""Values of a configuration, held against the signatures of what they reach: after import, before any folder is made.

The keys outside the groups, of conf/config.yaml, conf/{evaluate,sample,figures}/ and conf/sweep/, have signatures here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from ddpm_lab.config.catalogue import Catalog, Choices
from ddpm_lab.config.instantiate import described, resolve_target
from ddpm_lab.config.nested import Config
from ddpm_lab.config.options import content
from ddpm_lab.config.signature import Explain, inspected, parameters
from ddpm_lab.domains import FolderName, FolderPath, NonNegativeInt, PositiveInt, Size, Text
from ddpm_lab.errors import UserError

AUTO = "auto"
"""As `_target_`: what takes its place is known later."""


@dataclass
class Train:
    seed: NonNegativeInt = 0
    resume: Text | None = None
    base: Text | None = None


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
    batch: Size = 256
    sample_precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool | Literal["reduce-overhead"] = False
    settings: list[Text] = field(default_factory=list)
    expected: list[Text] = field(default_factory=list)


@dataclass
class Sample:
    ckpt: Text
    n: PositiveInt = 64
    seed: NonNegativeInt = 0
    classes: list[NonNegativeInt] | None = None
    weights: Text | None = None
    out: Text | None = None
    files: list[Literal["png", "grid", "npz", "pt"]] | None = None
    grid: PositiveInt = 64
    show: Literal["x0", "xt"] | None = None
    rows: PositiveInt = 8
    frames: Annotated[int, Ge(2)] = 20
    film: list[Literal["gif", "mp4"]] = field(default_factory=lambda: ["gif"])
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: Size = 256
    sample_precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool | Literal["reduce-overhead"] = False


@dataclass
class Figures:
    ckpt: Text | None = None
    seed: NonNegativeInt = 0
    weights: Text | None = None
    out: Text | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: Size = 256


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


def sections(command: str) -> dict[str, type]:
    """Signatures by their place in the root's file; "" for its top level. `command`: train, evaluate, sample or figures."""
    if command == "train":
        return {"": Train, "run": Run}
    if command in ("sample", "figures"):
        return {"": {"sample": Sample, "figures": Figures}[command], "gamma": Gamma}
    from ddpm_lab.evaluation.quality import Quality
    from ddpm_lab.models.measurement import Likelihood

    return {"": Evaluate, "nll": Likelihood, "quality": Quality, "gamma": Gamma}


def check_values(catalog: Catalog, config: Config, choices: Choices, typed: Mapping[str, str]) -> None:
    """Raises UserError for a value or a signature that is not right. `typed`: values as the user wrote them, by key."""
    meanings = catalog.keys_for(choices)

    def explain(key: str) -> tuple[str | None, str]:
        return typed.get(key), meanings[key].meaning if key in meanings else ""

    for place, signature in sections(catalog.command).items():
        top = {key for key in catalog.root if "." not in key}
        inspected(place, signature, config[place] if place else {key: config[key] for key in config if key in top}, explain)
    for group in catalog.groups:
        if group in config:
            _check_group(group, config[group], f"{group}={choices.get(group)}", explain)


def _check_group(group: str, node: Any, chosen: str, explain: Explain) -> None:
    if not isinstance(node, Mapping):
        raise UserError(f"{chosen}: {group} holds no keys")
    if group == "sweep":
        inspected(group, Search if "trials" in node else Sweep, node, explain)
        return
    parts = _parts(group, node)
    if not node or not all(isinstance(part, Mapping) for part in parts.values()):
        raise UserError(f"{chosen}: its file has no _target_, which names the class or function to build")
    for key, part in parts.items():
        if part.get("_target_") == AUTO:
            continue
        if not isinstance(part.get("_target_"), str):
            raise UserError(f"{chosen}: {key} has no _target_, which names the class or function to build")
        try:
            described(key, part, explain)
        except UserError as error:
            raise UserError(str(error) if str(error).startswith(key) else f"{chosen}: {error}") from error


def _parts(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """What the node of a group describes, by key: one thing to build, or several of which some may be left out."""
    several = {f"{group}.{name}": part for name, part in node.items() if part is not None}
    return {group: node} if "_target_" in node else several


def domain_of(key: str, catalog: Catalog, choices: Choices) -> Any:
    """What a key may hold, of the chosen option, or else of the first that has it. None for no such key."""
    place, _, name = key.rpartition(".")
    if key in catalog.root:
        return parameters(sections(catalog.command)[place])[name].domain
    group = key.partition(".")[0]
    having = [option.partition("=")[2] for option in catalog.having(key)]
    option = choices.get(group) if choices.get(group) in having else next(iter(having), None)
    if option is None:
        return None
    if group == "sweep":
        return parameters(Search)[name].domain
    target = _parts(group, content(group, option, catalog.dirs)).get(place, {}).get("_target_", AUTO)
    known = {} if target == AUTO else parameters(resolve_target(target, place))
    return known[name].domain if name in known else None
