"""`python evaluate.py`: answers mistakes at once, then measures one network under every choice that was asked for."""

import functools
from collections.abc import Sequence, Set
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.cli.arguments import run
from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.protocol import apply_settings
from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError

WORK = "work"
"""Beside the results: what was measured, in pieces."""


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 130 stopped."""
    run(_main, stopped="stopped; what was measured is kept, and the same command goes on from there")


def _main(argv: list[str]) -> None:
    dirs = [conf_dir() / "evaluate", *config_dirs(argv)]
    if "--help" in argv or "-h" in argv:
        from ddpm_lab.config.help import EVALUATE, printed

        printed(argv, dirs, EVALUATE)
        return
    from ddpm_lab.config.grammar import canonical
    from ddpm_lab.config.preflight import preflight

    argv, notes = canonical(argv, dirs)
    typed = {word.partition("=")[0] for word in argv}
    argv = with_own_sampler(argv, dirs)
    arms = preflight(argv, dirs, functools.partial(completed, typed=typed))
    if not arms:
        raise UserError("evaluate.py shows nothing of Hydra's own; its keys are in --help")
    from ddpm_lab.config.build_evaluation import evaluate_all

    print("".join(f"{note}\n" for note in notes), end="")
    evaluate_all([arm.config for arm in arms])


def with_own_sampler(argv: list[str], dirs: Sequence[Path]) -> list[str]:
    """`sampler.steps=50` alone is about the run's own sampler: its name and its other values are put beside it."""
    typed = {key: value for key, _, value in (word.partition("=") for word in argv)}
    asked = any(key.startswith("sampler.") for key in typed)
    if not asked or "sampler" in typed or "ckpt" not in typed or "," in typed["ckpt"]:
        return argv
    from ddpm_lab.config.combinations import option_of
    from ddpm_lab.config.instantiate import permit
    from ddpm_lab.config.nested import plain

    permit(dirs)
    trained = _trained(typed["ckpt"])[0]
    own = {f"sampler.{key}": value for key, value in trained.sampler.items() if key != "_target_"}
    others = [f"{key}={shown(value)}" for key, value in own.items() if key not in typed]
    return [*argv, f"sampler={option_of('sampler', plain(trained)['sampler'], dirs)}", *others]


def completed(cfg: DictConfig, dirs: Sequence[Path], sweep: bool, typed: Set[str] = frozenset()) -> None:
    """Puts the run's own choices in place of `auto`, its checkpoint and folder beside them, and the values of the protocol but
    for `typed` keys. Refuses what its model does not allow."""
    from ddpm_lab.config.combinations import check_evaluated, option_of, plain

    if cfg.name == WORK:
        raise UserError(f"name={WORK}: allowed is a folder name other than {WORK}, which holds what was measured, in pieces")
    trained, checkpoint, folder = _trained(cfg.ckpt)
    OmegaConf.set_struct(cfg, False)
    cfg.checkpoint = str(checkpoint)
    cfg.folder = str(folder or checkpoint.parent)
    check_evaluated(cfg, trained, dirs)
    groups = [group for group in ("schedule", "prediction", "loss", "net") if group in trained]
    options = {group: option_of(group, plain(trained)[group], dirs) for group in groups} | dict(cfg.names)
    apply_settings(cfg, cfg.settings, options, typed)
    if (artifact := cfg.logger.get("artifact", "none")) != "none":
        raise UserError(f"logger.artifact={artifact}: an evaluation makes no network; leave it out, or use it in training")


def _trained(ckpt: str) -> tuple[DictConfig, Path, Path | None]:
    """The configuration that the network was trained by, its checkpoint, and its run folder where there is one."""
    from ddpm_lab.config.resume import configuration, located

    checkpoint, folder = located(Path(ckpt).expanduser(), "ckpt")
    return configuration(checkpoint, folder), checkpoint, folder


if __name__ == "__main__":
    main()
