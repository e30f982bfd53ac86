"""`head=OPTION base=RUN`: a second stage on the frozen network of a run, with the configuration of that run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.catalogue import Catalog, Choices
from ddpm_lab.config.options import conf_dir, content
from ddpm_lab.config.resume import LENGTH, apply, choose, configuration, located
from ddpm_lab.errors import UserError

if TYPE_CHECKING:
    from ddpm_lab.models.run import Run

EXPERIMENT = {"experiment": "head", "model": "variance_head"}
"""What the command line is composed with."""
OWN = ("ema", "head", "model", "optim", "seed")
"""Groups and keys of the command line, with what experiment=head sets of them."""
FREE = ("callbacks", "guidance", "logger", "metrics", "run", "sampler", "trainer")
"""Those of the base, unless they are typed."""


def check_words(config: DictConfig, choices: Choices, catalog: Catalog) -> None:
    """Refuse one of head= and base= without the other, or what goes with neither."""
    head, base, resume = choices.get("head"), config.get("base"), config.get("resume")
    heads = ", ".join(f"head={option}" for option in catalog.options.get("head", ()))
    of_head = [f"{group}={name}" for group, name in EXPERIMENT.items() if choices.get(group) == name]
    if resume is not None and (head or base):
        raise UserError(f"resume={resume}: goes on with the head and the base of that run: leave head= and base= out")
    if head is None and base is not None:
        raise UserError(f"base={base}: the run on whose network a head is trained; add one of {heads}")
    if head is None and of_head:
        raise UserError(f"{of_head[0]}: is about a head: choose it by one of {heads}, with base=RUN")
    if head is not None and base is None:
        raise UserError(f"head={head}: needs the run on whose network it is trained: add base=RUN")
    if head is not None and len(of_head) < len(EXPERIMENT):
        other = next(f"{group}={choices.get(group)}" for group, name in EXPERIMENT.items() if choices.get(group) != name)
        raise UserError(f"{other}: a head has the configuration of its base: leave it out")


def headed(cfg: DictConfig, head: str, words: Sequence[str], dirs: Sequence[Path]) -> DictConfig:
    """The configuration of a head's run. `cfg` is what the command line composed to, `words` are its arguments; the rest is the
    base's own. Raises UserError for a base that can have no head, and for keys that are the base's."""
    from ddpm_lab.config.build import check_parts
    from ddpm_lab.config.combinations import check_combination, check_optimiser
    from ddpm_lab.config.unused import drop_unused

    folder, base = _base(cfg)
    stored = configuration(folder / "checkpoints" / "last.ckpt", folder)
    OmegaConf.set_struct(stored, False)
    typed = {key: value for key, _, value in (word.lstrip("+").partition("=") for word in words)}
    choose(stored, typed, dirs, FREE)
    for key in (key for key in typed if key.partition(".")[0] not in (*OWN, "base", "experiment") and key not in FREE):
        if apply(cfg, stored, [key], FREE):
            raise UserError(f"{key}={typed[key]}: {key.partition('.')[0]} is the base's, {folder}: leave it out")
    stored.update({key: cfg[key] for key in OWN} | {"base": str(folder.absolute()), "resume": None})
    stored.trainer.update({key: cfg.trainer[key] for key in LENGTH})
    stored.model.update(_weights(cfg, base))
    variance = content("variance", head, [conf_dir() / "evaluate", *dirs])
    stored.variance = variance | ({"clip_cov": base.model.levels is not None} if "clip_cov" in variance else {})
    place = {"root": str(folder), "experiment": "heads", "name": head, "trained_in": None}
    stored.run = place | {key: cfg.run[key] for key in place if f"run.{key}" in typed}
    drop_unused(stored)
    check_parts(stored)
    check_combination(stored, dirs)
    check_optimiser(stored, dirs)
    return stored


def _base(cfg: DictConfig) -> "tuple[Path, Run]":
    """The folder and the network. Raises UserError where it is no run of a diffusion model."""
    from ddpm_lab.config.build import load
    from ddpm_lab.models.diffusion import Diffusion
    from ddpm_lab.models.variance_head import VarianceHead

    path = Path(cfg.base).expanduser()
    folder = located(path, "base")[1]
    if folder is None or not path.is_dir():
        raise UserError(f"base={cfg.base}: a checkpoint; allowed is the folder of a run")
    run = load(folder, cfg.model.weights)
    if isinstance(run.model, VarianceHead):
        raise UserError(f"base={cfg.base}: is a head itself, on the network of {run.config['base']}: use that")
    if not isinstance(run.model, Diffusion):
        raise UserError(f"base={cfg.base}: its model is {type(run.model).__name__}, which has no reverse variance")
    if run.model.diffusion.schedule.reaches_zero:
        raise UserError(f"base={cfg.base}: its ᾱ_T = 0, and Cov(x_0 | x_t) of a head is a multiple of 1/ᾱ_t")
    return folder, run


def _weights(cfg: DictConfig, base: "Run") -> dict[str, str]:
    """Which of the base they are. Raises UserError for others than were asked for."""
    from ddpm_lab.models.checkpoint import weights_sha256

    found, asked = weights_sha256(base.net), cfg.model.sha256
    if asked not in (None, found):
        raise UserError(f"model.sha256={asked}: the {base.weights} weights of base={cfg.base} have {found}")
    return {"weights": base.weights, "sha256": found}
