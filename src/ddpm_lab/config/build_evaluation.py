"""From the configurations of evaluate.py to what is measured, and where it goes."""

import inspect
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import ranks
from ddpm_lab.config.build import instantiate, load, resolve_target
from ddpm_lab.data.memory import InMemory
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation import columns
from ddpm_lab.evaluation.measure import Arm, join, leave, measure
from ddpm_lab.evaluation.quality import Quality, published
from ddpm_lab.evaluation.store import Store
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.measurement import Likelihood

PARTS = ("sampler", "variance")
"""Groups of a model that evaluation can choose anew."""


class Config(NamedTuple):
    """One composed configuration, with its values as plain containers."""

    node: DictConfig
    plain: dict[str, Any]


def evaluate_all(configs: Sequence[DictConfig]) -> None:
    """Measures every configuration, those of one folder together. Raises UserError before any long work."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ddpm_lab").setLevel(logging.INFO)
    join(device_of(configs[0]))
    try:
        stamp = ranks.agreed(datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        folders: dict[Path, list[Config]] = {}
        for cfg in configs:
            plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
            folders.setdefault(Path(cfg.folder) / "eval" / (cfg.name or stamp), []).append(Config(cfg, plain))
        composer = _Composer()
        arms = {
            folder: [composer.arm(cfg, setting) for cfg, setting in zip(of_one, settings(of_one), strict=True)]
            for folder, of_one in folders.items()
        }
        for folder, of_one in folders.items():
            first = of_one[0].node
            measure(arms[folder], folder, OmegaConf.to_yaml(first), partial(logger_of, first, folder))
    finally:
        leave()


class _Composer:
    """Builds arms. One model is in memory at a time, as a sweep may ask for many."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] = ()
        self._subject: Subject | None = None
        self._extractors: dict[tuple[str, str], Extractor] = {}

    def subject(self, cfg: DictConfig) -> Subject:
        key = (cfg.checkpoint, str(cfg.weights), str(device_of(cfg)))
        if self._subject is None or self._key != key:
            self._key, self._subject = key, subject_of(cfg)
        if (self._subject.seed, self._subject.batch) != (cfg.seed, cfg.batch):
            self._subject = replace(self._subject, seed=cfg.seed, batch=cfg.batch)
        return self._subject

    def arm(self, config: Config, setting: str) -> Arm:
        """Raises UserError for what cannot be measured."""
        cfg, subject = config.node, self.subject(config.node)
        nll, quality = Likelihood(**config.plain["nll"]), Quality(**config.plain["quality"])
        check_sizes(config, subject)
        steps = check_measurements(config, subject, nll)
        key = (subject.identity["data"], OmegaConf.to_yaml(cfg.metrics))
        if key not in self._extractors:
            self._extractors[key] = instantiate(cfg, "metrics", data=subject.data)
        extractor = self._extractors[key]
        stats = published(quality.statistics, subject, extractor) if quality.n else None
        choice = partial(choice_of, config, nll)
        return Arm(partial(self.subject, cfg), choice, config.plain["names"], steps, setting, nll, quality, extractor, stats)


def device_of(cfg: DictConfig) -> torch.device:
    available = torch.cuda.is_available()
    if cfg.device == "cuda" and not available:
        raise UserError("device=cuda: torch finds no CUDA device here; use device=cpu")
    if cfg.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def subject_of(cfg: DictConfig) -> Subject:
    """The model of a checkpoint with the data of its run. Raises UserError for data other than those it was trained on."""
    checkpoint = Path(cfg.checkpoint)
    run = load(checkpoint, cfg.weights).to(device_of(cfg))
    data: InMemory = instantiate(OmegaConf.create(run.config), "data")  # type: ignore[arg-type]
    data.setup()
    stored = read_checkpoint(checkpoint).get(type(data).__qualname__)
    if stored is not None:
        data.load_state_dict(stored)
    return Subject(run, data, checkpoint, cfg.seed, cfg.batch, Store(Path(cfg.folder) / "eval" / "work"))


def check_sizes(config: Config, subject: Subject) -> None:
    """Raises UserError where more data are asked for than there are."""
    cfg = config.node
    size, train = subject.size(cfg.nll.split), subject.size("train")
    if cfg.nll.n is not None and cfg.nll.n > size:
        raise UserError(f"nll.n={cfg.nll.n}: the {cfg.nll.split} split has {size} data; null takes all")
    if cfg.nll.ode_n > size or cfg.nll.ode_n == 1:
        raise UserError(f"nll.ode_n={cfg.nll.ode_n}: allowed is 0, or 2 to the {size} data of the {cfg.nll.split} split")
    if cfg.quality.n == 1:
        raise UserError("quality.n=1: one sample has no covariance; allowed is 0 for none, or 2 and more")
    if "variance" in config.plain["names"] and takes_gamma(config) and cfg.gamma.n > train:
        raise UserError(f"gamma.n={cfg.gamma.n}: there are {train} training data")


def check_measurements(config: Config, subject: Subject, nll: Likelihood) -> int:
    """The number of steps of the sampler. Raises UserError for a chain, stride or setting that the model does not allow."""
    try:
        model = with_parts(config, subject)
        model.measurements(subject.conditions(nll, parts_of(config)))
    except ValueError as error:
        raise UserError(str(error)) from error
    return model.sample_steps


def parts_of(config: Config) -> dict[str, Any]:
    """The configuration of each part that evaluation chose; Γ is part of a variance that rests on it."""
    parts = {group: dict(config.plain[group]) for group in PARTS if group in config.plain["names"]}
    if "variance" in parts and takes_gamma(config):
        parts["variance"]["gamma"] = {"n": config.node.gamma.n, "split": "train"}
    return parts


def with_parts(config: Config, subject: Subject, **offered: Any) -> Any:
    """The model with the chosen sampler; and, unless Γ is still to be measured, with the chosen variance."""
    model, names = subject.run.model, config.plain["names"]
    if "sampler" in names:
        model = model.sampling(sampler=instantiate(config.node, "sampler"))
    if "variance" in names and (offered or not takes_gamma(config)):
        model = model.with_variance(instantiate(config.node, "variance", **offered))
    return model


def takes_gamma(config: Config) -> bool:
    """Whether the variance rests on Γ, which its signature then names."""
    return "gamma" in inspect.signature(resolve_target(config.plain["variance"]["_target_"], "variance")).parameters


def choice_of(config: Config, nll: Likelihood, subject: Subject) -> Choice:
    """The model under the chosen parts; where the variance rests on Γ, that is measured first."""
    names, parts = config.plain["names"], parts_of(config)
    names = {group: names[group] for group in PARTS if group in names}
    model = with_parts(config, subject)
    if "variance" not in parts or "gamma" not in parts["variance"]:
        return Choice(model, names, parts)
    from ddpm_lab.models.gamma import GammaAtTimes, gamma_columns, variance_record

    wanted = GammaAtTimes(model, subject.conditions(nll, parts), config.node.gamma.n)
    gamma = columns.measured(subject, wanted)
    model = with_parts(config, subject, gamma=gamma)
    details = {"variance": variance_record(model.diffusion.variance)}
    return Choice(model, names, parts, details, {"gamma": gamma_columns(gamma)})


def logger_of(cfg: DictConfig, folder: Path, trained: Mapping[str, Any]) -> Any:
    """The chosen logger for the evaluation in `folder`. Its project, group and tags are those of the run's own logger unless
    they were typed, and its name contains that of the run."""
    of_run, chosen = trained.get("logger") or {}, cfg.logger
    if "group" in chosen:
        for key in ("project", "entity", "group", "tags"):
            chosen[key] = chosen[key] or of_run.get(key, chosen[key])
        chosen.name = chosen.name or f"{of_run.get('name') or Path(cfg.folder).absolute().name} eval/{folder.name}"
    return instantiate(cfg, "logger", run_dir=Path(cfg.folder), evaluation=True)


def settings(configs: Sequence[Config]) -> list[str]:
    """For each configuration, where it differs from those with the same sampler, steps and variance, as "seed=1"."""
    leaves = [_leaves(config.plain) for config in configs]
    names = [tuple(of.get(key) for key in ("names.sampler", "sampler.steps", "names.variance")) for of in leaves]

    def setting(i: int) -> str:
        peers = [leaves[j] for j in range(len(configs)) if names[j] == names[i]]
        keys = [key for key in dict.fromkeys(key for peer in peers for key in peer) if key not in ("ckpt", "folder")]
        different = {key: leaves[i].get(key) for key in keys if any(peer.get(key) != leaves[i].get(key) for peer in peers)}
        different = {key: value for key, value in different.items() if f"names.{key.partition('.')[0]}" not in different}
        if "checkpoint" in different:
            different["checkpoint"] = Path(str(different["checkpoint"])).stem
        return " ".join(f"{key.removeprefix('names.')}={_typed(value)}" for key, value in different.items())

    return [setting(i) for i in range(len(configs))]


def _typed(value: Any) -> str:
    """As in a yaml file."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): node}
    return {key: value for name, child in node.items() for key, value in _leaves(child, f"{prefix}{name}.").items()}
