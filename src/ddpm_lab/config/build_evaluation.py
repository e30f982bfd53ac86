"""From the configurations of evaluate.py to what is measured, and where it goes."""

import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import cores, ranks
from ddpm_lab.compare.measures import known_measure
from ddpm_lab.config.build import load, unmeasured, with_optimal
from ddpm_lab.config.instantiate import Config, instantiate, resolve_target
from ddpm_lab.config.nested import leaves, plain
from ddpm_lab.config.resume import located
from ddpm_lab.data.memory import InMemory
from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation import check, columns
from ddpm_lab.evaluation.measure import Arm, device_of, join, leave, measure
from ddpm_lab.evaluation.quality import Quality, published
from ddpm_lab.evaluation.store import Store
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.evaluation.tables import settings
from ddpm_lab.files import new_folder, sha256
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.compiling import Compile, check_compile, compile_model
from ddpm_lab.models.contract import Model
from ddpm_lab.models.measurement import Likelihood
from ddpm_lab.models.run import Run
from ddpm_lab.models.variance_head import VarianceHead

if TYPE_CHECKING:
    from ddpm_lab.models.at_times import AtTimes

PARTS = ("sampler", "variance", "guidance")
"""Groups of a model that evaluation can choose anew."""
OF_SUBJECT = ("folder", "checkpoint", "weights", "device", "seed", "batch", "sample_precision", "compile")
"""Keys that say which network is measured, where, and by which draws."""


def evaluate_all(configs: Sequence[DictConfig]) -> bool:
    """Measures every configuration, those of one folder together. Returns whether all numbers are where they are expected.
    Raises UserError before any long work."""
    prepare()
    join(device_of(configs[0].device))
    try:
        together: dict[tuple[str, str | None], list[DictConfig]] = {}
        for cfg in configs:
            together.setdefault((cfg.folder, cfg.name), []).append(cfg)
        loaded: Callable[..., Subject] = lru_cache(maxsize=1)(subject_of)  # one model in memory, as a sweep may ask for many
        extractors: dict[tuple[str, str], Extractor] = {}
        arms = {place: _arms(list(map(plain, of_one)), loaded, extractors) for place, of_one in together.items()}
        holds = True
        for place, of_one in together.items():
            folder = _folder(*place)
            with ranks.held(folder, "name", ranks.rank() == 0):
                logger = partial(logger_of, plain(of_one[0]), folder)
                holds &= measure(arms[place], folder, OmegaConf.to_yaml(of_one[0]), logger)
        return holds
    finally:
        leave()


def prepare() -> None:
    """Our lines on the console, as many threads as there are cores, and cuDNN's choice of algorithms."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ddpm_lab").setLevel(logging.INFO)
    if fewer_threads := cores.use_granted():
        logging.getLogger("ddpm_lab").info("%s", fewer_threads)
    torch.backends.cudnn.benchmark = True


def _folder(run: str, name: str | None) -> Path:
    """Of an evaluation: as it is called, or a new one that all processes share."""
    parent, made = Path(run) / "eval", None
    with ranks.by_first():
        if name is None and ranks.rank() == 0:
            made = new_folder(parent, "ckpt")
    return parent / name if name else ranks.agreed(made)


def _arms(configs: Sequence[Config], loaded: Callable[..., Subject], extractors: dict[tuple[str, str], Extractor]) -> list[Arm]:
    """What is measured into one folder. Raises UserError for what cannot be. `extractors`: those made so far."""
    if len({config["weights"] for config in configs}) > 1:
        configs = [{**config, "names": {**config["names"], "weights": config["weights"]}} for config in configs]
    texts = settings([leaves(config) for config in configs])
    return [_arm(config, text, loaded, extractors) for config, text in zip(configs, texts, strict=True)]


def _arm(cfg: Config, setting: str, loaded: Callable[..., Subject], extractors: dict[tuple[str, str], Extractor]) -> Arm:
    load_subject = partial(loaded, *(cfg[key] for key in OF_SUBJECT))
    subject = load_subject()
    if "weights" in cfg["names"]:
        cfg["names"]["weights"] = subject.run.weights
    nll, quality = Likelihood(**cfg["nll"]), Quality(**cfg["quality"])
    subject.check_sizes(nll, quality.n, gamma_size(cfg))
    try:  # a chain, stride or setting that the model does not allow
        model = with_parts(cfg, network_of(cfg, subject), **at_hand(cfg, subject))
        measurements = model.measurements(subject.conditions(nll, parts_of(cfg)))
    except ValueError as error:
        raise UserError(str(error)) from error
    key = (subject.identity["data"], str(cfg["metrics"]))
    if key not in extractors:
        extractors[key] = instantiate(cfg, "metrics", data=subject.data)
    stats = published(quality.statistics, subject, extractors[key]) if quality.n else None
    choice = partial(choice_of, cfg, nll)
    checked = bands_of(cfg, [measurement.key for measurement in measurements]), Path(cfg["folder"])
    return Arm(load_subject, choice, names_of(cfg), model.sample_steps, setting, nll, quality, extractors[key], stats, *checked)


def bands_of(cfg: Config, likelihoods: Sequence[str]) -> list[check.Band]:
    """Where numbers are expected. Raises UserError for one that neither this evaluation nor this run can have. `likelihoods`:
    the keys of those that are measured."""
    bands, logged = list(map(check.read, cfg["expected"])), check.columns(Path(cfg["folder"]))
    for text, band in zip(cfg["expected"], bands, strict=True):
        of_training = band.images is not None
        if of_training and logged and band.number not in logged:
            raise UserError(f"expected={text}: metrics.csv of this run has no such column; it has {', '.join(logged)}")
        scored = re.sub(r"_(real|first_[0-9]+)$", "", band.number)
        whole = next((key for key in likelihoods if band.number.startswith(f"{key}_")), None)
        part = whole and known_measure(f"bound_{band.number.removeprefix(f'{whole}_')}")
        if not of_training and band.number not in likelihoods and not part and known_measure(scored) is None:
            raise UserError(
                f"expected={text}: no number of an evaluation is called so; this one measures {', '.join(likelihoods)}, "
                "their parts, and scores of samples: fd, kid, precision, recall and the like, after the name of metrics"
            )
    return bands


def subject_of(
    folder: str,
    checkpoint: str,
    weights: str | None,
    device: str,
    seed: int,
    batch: int,
    sample_precision: str = "32-true",
    compile: Compile = False,
) -> Subject:
    """The model of a checkpoint, whose data are read when they are needed. Raises UserError."""
    check_compile(compile, device_of(device).type, "compile")
    run = load(checkpoint, weights).to(device_of(device))
    run.model.sample_in_bf16 = sample_precision == "bf16-mixed"
    if compile:
        compile_model(run.model, compile, "compile")
    load_data, store = partial(data_of, run, Path(checkpoint)), Store(Path(folder) / "eval" / "work")
    return Subject(run, load_data, Path(checkpoint), seed, batch, store)


def data_of(run: Run, checkpoint: Path) -> InMemory:
    """The data of a run. Raises UserError for other data than those it was trained on."""
    data: InMemory = instantiate(run.config, "data")
    data.setup()
    for name, of_run, of_data in (("shape", run.model.shape, data.shape), ("levels", run.model.levels, data.levels)):
        if of_run != of_data:
            raise UserError(f"{checkpoint}: {name}={shown(of_run)}, but the data of this run have {shown(of_data)}")
    stored = read_checkpoint(checkpoint).get(type(data).__qualname__)
    if stored is not None:
        data.load_state_dict(stored)
    return data


def names_of(cfg: Config) -> dict[str, str]:
    """Of each group the option; of a guidance its values; the weights, where those of an evaluation differ."""
    names, guidance = dict(cfg["names"]), cfg.get("guidance") or {}
    if "guidance" in names and "scale" in guidance:
        low_high = "" if guidance["interval"] is None else " at log-SNR {} to {}".format(*guidance["interval"])
        names["guidance"] = f"scale {guidance['scale']}{low_high}"
    return names


def needed(cfg: Config) -> "list[type[AtTimes]]":
    """What the chosen parts rest on, which is measured first: a variance on Γ if its signature names it, and a sampler on
    `optimal` if its spacing is that too. In this order, since optimal times are those of a variance."""
    from ddpm_lab.models.gamma import GammaAtTimes
    from ddpm_lab.models.optimal import OptimalTimes

    asked = [(GammaAtTimes, "variance", "variance" in cfg["names"]), (OptimalTimes, "sampler", with_optimal(cfg))]
    return [need for need, group, whether in asked if whether and need.argument in _signature(cfg, group)]


def _signature(cfg: Config, group: str) -> Mapping[str, Any]:
    return inspect.signature(resolve_target(cfg[group]["_target_"], group)).parameters


def gamma_size(cfg: Config) -> int | None:
    """The training data for what is measured first; None where nothing is."""
    return cfg["gamma"]["n"] if needed(cfg) else None


def parts_of(cfg: Config) -> dict[str, Any]:
    """The configuration of each part that evaluation chose; Γ and head are part of a variance that rests on them."""
    parts = {group: dict(cfg[group]) for group in PARTS if group in cfg["names"]}
    if "gamma" in (need.argument for need in needed(cfg)):
        parts["variance"]["gamma"] = {"n": cfg["gamma"]["n"], "split": "train"}
    if (checkpoint := head_checkpoint(cfg)) is not None:
        parts["variance"]["head"] = sha256(checkpoint)
    return parts


def head_checkpoint(cfg: Config) -> Path | None:
    """Of the head on which the chosen variance rests, where that is not of the run itself."""
    folder = cfg["variance"].get("head") if "variance" in cfg["names"] else None
    return None if folder is None else located(Path(folder), "variance.head")[0]


def network_of(cfg: Config, subject: Subject) -> Model:
    """The model of the run; of a variance that rests on a head, its network with that head. Raises UserError for a head that
    was trained on another network."""
    run, checkpoint = subject.run, head_checkpoint(cfg)
    if checkpoint is None:
        return run.model
    head = load(checkpoint, base=run).to(run.device)
    model = cast(VarianceHead, head.model)
    model.sample_in_bf16 = run.model.sample_in_bf16
    if run.model.compiled:
        model.compile_net(run.model.compiled)
    model.head_record = {"head": cfg["variance"]["head"], "head_sha256": sha256(checkpoint), "head_step": head.step}
    return model


def at_hand(cfg: Config, subject: Subject) -> dict[str, Any]:
    """What the chosen variance rests on that no network has to be called for."""
    named = "variance" in cfg["names"] and "largest" in _signature(cfg, "variance")
    return {"largest": subject.largest_eigenvalue} if named else {}


def with_parts(cfg: Config, model: Model, **offered: Any) -> Model:
    """The model under the chosen parts, given what they rest on. Of what is still to be measured: the variance stays that of
    the run, and the sampler visits as many other times."""
    missing = {need.argument for need in needed(cfg)} - offered.keys()
    cfg = unmeasured(cfg) if "optimal" in missing else cfg
    chosen = {group: instantiate(cfg, group, **offered) for group in ("sampler", "guidance") if group in cfg["names"]}
    model = model.sampling(**chosen, classes=cfg.get("classes"))
    if "variance" in cfg["names"] and "gamma" not in missing:
        model = model.with_variance(instantiate(cfg, "variance", **offered))
    return model


def choice_of(cfg: Config, nll: Likelihood, subject: Subject) -> Choice:
    """The model under the chosen parts; what they rest on is measured first."""
    parts, network, needs = parts_of(cfg), network_of(cfg, subject), needed(cfg)
    named = (*parts, "weights")
    offered, names = at_hand(cfg, subject), {group: name for group, name in names_of(cfg).items() if group in named}
    choice = Choice(with_parts(cfg, network, **offered), names, parts)
    for need in needs:
        everywhere = any(other.argument == "optimal" for other in needs)
        wanted = need(choice.model, subject.conditions(nll, parts), cfg["gamma"]["n"], everywhere)  # type: ignore[arg-type]
        offered[need.argument] = columns.measured(subject, wanted)
        choice.tables |= wanted.tables(offered[need.argument])
        choice.model = with_parts(cfg, network, **offered)
    if "variance" in parts:
        choice.details["variance"] = choice.model.variance_record()  # type: ignore[union-attr]
    return choice


def logger_of(cfg: Config, folder: Path, trained: Mapping[str, Any]) -> Any:
    """The chosen logger for the evaluation in `folder`. Its project, group and tags are those of the run's own logger unless
    they were typed, and its name contains that of the run."""
    of_run, chosen, run_dir = trained.get("logger") or {}, dict(cfg["logger"]), Path(cfg["folder"])
    if "group" in chosen:
        kept = [key for key in ("project", "entity", "group", "tags") if key in chosen]
        chosen |= {key: chosen[key] or of_run.get(key, chosen[key]) for key in kept}
        chosen["name"] = chosen["name"] or f"{of_run.get('name') or run_dir.absolute().name} eval/{folder.name}"
    return instantiate({"logger": chosen}, "logger", run_dir=run_dir, evaluation=True)
