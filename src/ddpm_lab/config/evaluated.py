"""What evaluate.py, sample.py and figures.py may ask of a trained network: its own choices in place of `auto`, the values of a
protocol, and what is refused.

A protocol holds values for whichever options are chosen, as lines of words that could be typed:

    settings:
      - sampler.spacing=linspace
      - sampler=ancestral schedule=cosine sampler.max_last_noise=1

A line applies where the options that it names, as `group=option`, are those of the configuration; its other words are then set.
A value that was typed wins. A later line wins over an earlier one.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.build import check_parts, current, unmeasured, with_optimal
from ddpm_lab.config.combinations import check_combination, check_steps, option_of
from ddpm_lab.config.instantiate import instantiate, resolve_target
from ddpm_lab.config.nested import Config, plain
from ddpm_lab.config.options import options, target
from ddpm_lab.config.resume import configuration, located
from ddpm_lab.errors import UserError
from ddpm_lab.files import check_links, is_as_written
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.contract import Model
from ddpm_lab.training.trainer import check_precisions

WORK = "work"
"""Beside the results: what was measured, in pieces."""


Read = Callable[[str], tuple[DictConfig, Path, Path | None]]
"""`trained_by`, or one that remembers: the arms of a sweep ask for the same network."""


def completed(cfg: DictConfig, dirs: Sequence[Path], typed: Set[str], read: Read) -> None:
    """Puts the run's own choices in place of `auto`, its checkpoint and folder beside them, and the values of the protocol but
    for `typed` keys. Refuses what its model does not allow."""
    if cfg.name == WORK:
        raise UserError(f"name={WORK}: allowed is a folder name other than {WORK}, which holds what was measured, in pieces")
    trained = located_beside(cfg, read)
    check_evaluated(cfg, trained, dirs)
    own = plain(trained)
    chosen = {group: option_of(group, own[group], dirs) for group in ("schedule", "prediction", "loss", "net") if group in own}
    apply_settings(cfg, cfg.settings, chosen | dict(cfg.names), typed, dirs)
    _without_samples(cfg, own, typed)
    _check_optimal(plain(cfg), dirs)
    if (artifact := cfg.logger.get("artifact", "none")) != "none":
        raise UserError(f"logger.artifact={artifact}: an evaluation makes no network; leave it out, or use it in training")


def completed_for_samples(cfg: DictConfig, dirs: Sequence[Path]) -> None:
    """The same of sample.py, which has no protocol, and reads no data unless a variance is estimated from them."""
    trained = located_beside(cfg, trained_by)
    if reason := _model_of(plain(trained)).no_samples:
        raise UserError(f"ckpt={cfg.ckpt}: this run has no samples: {reason}")
    check_choices(cfg, trained, dirs)
    _check_optimal(plain(cfg), dirs)


def _model_of(trained: Config) -> type[Model]:
    return cast(type[Model], resolve_target(current(trained)["model"]["_target_"], "model"))


def _without_samples(cfg: DictConfig, trained: Config, typed: Set[str]) -> None:
    """Of a model that draws none, none are measured. Raises UserError where they were asked for."""
    if reason := _model_of(trained).no_samples:
        if asked := next((key for key in sorted(typed) if key.partition(".")[0] in ("quality", "metrics")), None):
            raise UserError(f"{asked}: this run has no samples: {reason}; leave it out")
        cfg.quality.n = 0


def completed_for_figures(cfg: DictConfig, dirs: Sequence[Path]) -> None:
    """The same of figures.py, one of whose figures needs no run, and takes one."""
    OmegaConf.set_struct(cfg, False)
    figure, cfg.name = resolve_target(cfg.figure["_target_"], "figure"), option_of("figure", plain(cfg)["figure"], dirs)
    if cfg.ckpt is not None:
        completed_for_samples(cfg, dirs)
    elif getattr(figure, "needs_run", True):
        raise UserError("ckpt is needed: a run folder, or a checkpoint; type ckpt=...")


def located_beside(cfg: DictConfig, read: Read) -> DictConfig:
    """The configuration of the run; its checkpoint and folder are put beside the keys of `cfg`."""
    trained, checkpoint, folder = read(cfg.ckpt)
    OmegaConf.set_struct(cfg, False)
    cfg.checkpoint = str(checkpoint)
    cfg.folder = str(folder or checkpoint.parent)
    if folder is None:  # of a run folder all was looked at
        check_links(checkpoint.parent, "ckpt", "eval")
    return trained


def trained_by(ckpt: str) -> tuple[DictConfig, Path, Path | None]:
    """The configuration that the network was trained by, its checkpoint, and its run folder where there is one."""
    checkpoint, folder = located(Path(ckpt).expanduser(), "ckpt")
    config = configuration(checkpoint, folder)
    changed = folder is not None and not is_as_written(folder / "config.yaml")
    if changed and plain(config) != read_checkpoint(checkpoint)["config"]:
        raise UserError(
            f"ckpt={ckpt}: its config.yaml was changed or damaged since it was written, and differs from {checkpoint}"
        )
    return config, checkpoint, folder


def check_evaluated(cfg: DictConfig, trained: DictConfig, dirs: Sequence[Path]) -> None:
    """`check_choices`, and refuse what the likelihood of its model cannot be asked."""
    check_choices(cfg, trained, dirs, draws=cfg.quality.n != 0)
    before, asked = current(trained), plain(cfg)
    nll, kept = asked["nll"], ["logger", *(group for group in cfg.names if group != "variance")]
    if nll["terms"] not in (None, "auto") and nll["stride"] != 1:
        raise UserError(f"nll.stride={nll['stride']} has no part in an estimate by nll.terms={nll['terms']}: leave one out")
    data = instantiate(before, "data")
    if nll["clip"] is True and getattr(data, "gives", None) == "vectors":
        raise UserError(f"nll.clip=true cuts x̂_0 to [-1, 1], and the vectors of {type(data).__name__} have no such bounds")
    check_combination(unmeasured({**before, **{group: asked[group] for group in kept}}), dirs)
    if nll["chain"] in ("sampler", "both") and "variance" in cfg.names:
        check_steps({**before, "variance": asked["variance"], "sampler": asked["sampler"]}, dirs, bound=True)


def check_choices(cfg: DictConfig, trained: DictConfig, dirs: Sequence[Path], draws: bool = True) -> None:
    """Put what the run was trained with in place of `auto`, `names` beside it, and refuse what its network cannot be asked.
    `draws`: whether samples will be."""
    check_parts(trained)
    groups = [group for group in ("variance", "sampler") if group in trained]
    groups += ["guidance"] if OmegaConf.select(trained, "data.conditional") else []
    for group in ("variance", "sampler", "guidance"):
        none = group == "guidance" and group not in groups and "scale" not in cfg[group]
        if cfg[group]["_target_"] == "auto" or none:
            cfg[group] = trained.get(group) if group in groups else None
        elif group not in groups and group == "guidance":
            raise UserError(
                f"guidance={option_of(group, cfg[group], dirs)}: this run was trained without classes; leave it out, or "
                "train one with data.conditional=true"
            )
        elif group not in groups:
            raise UserError(f"{group}={option_of(group, cfg[group], dirs)}: the model of this run has no {group}; leave it out")
    before, asked = current(trained), plain(cfg)
    cfg.names = {group: option_of(group, asked[group], dirs) for group in (*groups, "metrics") if group in asked}
    if "variance" in groups and not _finds_head(cfg, before, asked, dirs):
        _check_learned(before, asked, dirs)
    if draws and "variance" in groups:
        check_steps({**before, "variance": asked["variance"], "sampler": asked["sampler"]}, dirs)
    try:
        check_precisions(before["trainer"].get("precision", "32-true"), asked.get("sample_precision", "32-true"))
    except ValueError as error:
        raise UserError(str(error)) from error


def _finds_head(cfg: DictConfig, before: Config, asked: Config, dirs: Sequence[Path]) -> bool:
    """Whether the variance is that of a trained head, whose folder is put in its place; null stays where this is the head's own
    run. Raises UserError where there is none."""
    target, given = asked["variance"]["_target_"], asked["variance"].get("head")
    if "head" not in inspect.signature(resolve_target(target, "variance")).parameters:
        return False
    if given is None and target == before["variance"]["_target_"]:
        return True
    option = option_of("variance", asked["variance"], dirs)
    if given is None and before.get("base") is not None:
        raise UserError(f"variance={option}: this run is a head of another kind; measure its base, {before['base']}")
    folder = Path(given or Path(cfg.folder) / "heads" / option).expanduser()
    if given is None and not folder.exists():
        raise UserError(
            f"variance={option}: this run has no such head, {folder}; train it: python train.py head={option} base={cfg.folder}"
        )
    trained = configuration(*located(folder, "variance.head"))
    if OmegaConf.select(trained, "variance._target_") != target:
        other = option_of("variance", plain(trained).get("variance"), dirs)
        raise UserError(f"variance.head={folder}: was trained for variance={other}, and not for variance={option}")
    cfg.variance.head = str(folder)
    return True


def _check_learned(before: Config, asked: Config, dirs: Sequence[Path]) -> None:
    """Refuse a variance that the network would have to supply and was not trained to."""
    variance = resolve_target(asked["variance"]["_target_"], "variance")
    if getattr(variance, "n_outputs", 1) == 2 and asked["variance"]["_target_"] != before["variance"]["_target_"]:
        fixed = [
            f"variance={option}"
            for option, path in options("variance", dirs).items()
            if (name := target(path)) not in (None, "auto") and getattr(resolve_target(name, "variance"), "n_outputs", 1) == 1
        ]
        raise UserError(
            f"variance={option_of('variance', asked['variance'], dirs)} is an output of the network, and this one was trained "
            f"with variance={option_of('variance', before['variance'], dirs)}: leave variance= out to use it, or choose "
            f"{' or '.join(fixed)}"
        )


def _check_optimal(asked: Config, dirs: Sequence[Path]) -> None:
    """Refuse optimal times under a variance that depends on more than the time: no cost of a step follows from errors."""
    if not with_optimal(asked) or "variance" not in asked["names"]:
        return

    def fixed(name: str | None) -> bool:
        return name not in (None, "auto") and getattr(resolve_target(str(name), "variance"), "fixed", False)

    if not fixed(asked["variance"]["_target_"]):
        fitting = [f"variance={option}" for option, path in options("variance", dirs).items() if fixed(target(path))]
        raise UserError(
            f"sampler.spacing=optimal: under variance={asked['names']['variance']} the cost of a step depends on x_t: choose "
            f"{' or '.join(fitting)}, or another sampler.spacing"
        )


def _names(group: str, part: Any, name: str) -> bool:
    """Whether the signature of a part has the key, which the configuration of an earlier version may lack."""
    target = (part or {}).get("_target_", "")
    return "." in target and name in inspect.signature(resolve_target(target, group)).parameters


def apply_settings(config: Any, lines: Sequence[str], chosen: Mapping[str, str], typed: Set[str], dirs: Sequence[Path]) -> None:
    """Sets values in place, in a mapping or a DictConfig. `chosen`: the option of each group; `typed`: keys that keep their
    values. Raises UserError for an option or a key that does not exist, and for a line that sets nothing."""
    for line in lines:
        words = [word.partition("=")[::2] for word in line.split()]
        conditions = {group: option for group, option in words if "." not in group}
        for group, option in conditions.items():
            if option not in (allowed := options(group, dirs)):
                raise UserError(f"settings: {group}={option} in '{line}': no such option; allowed is {', '.join(allowed)}")
        if len(conditions) == len(words):
            raise UserError(f"settings: '{line}' sets nothing; a line needs a key with a value, as sampler.spacing=linspace")
        if any(chosen.get(group) != option for group, option in conditions.items()):
            continue
        for key, value in words:
            group, _, name = key.partition(".")
            if not name or key in typed:
                continue
            if name not in (config.get(group) or {}) and not _names(group, config.get(group), name):
                where = f"{group}={chosen[group]} has no such key" if group in chosen else f"there is no group {group}"
                raise UserError(f"settings: {key}={value}: {where}")
            config[group][name] = yaml.safe_load(value)
