"""`python evaluate.py`: answers mistakes at once, then measures one network under every choice that was asked for."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_lab.cli.arguments import run
from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.grammar import canonical
from ddpm_lab.config.nested import plain
from ddpm_lab.config.options import conf_dir, content
from ddpm_lab.config.preflight import preflight
from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 3 a number is not where it is expected, 128 + n stopped by signal n."""
    run(_main, stopped="stopped; what was measured is kept, and the same command goes on from there")


def _main(argv: list[str]) -> None:
    dirs = [conf_dir() / "evaluate", *config_dirs(argv)]
    if "--help" in argv or "-h" in argv:
        from ddpm_lab.config.help import EVALUATE, printed

        printed(argv, dirs, EVALUATE)
        return
    argv, notes = canonical(argv, dirs)
    argv, of_all = with_variances(argv, dirs)
    typed = {word.partition("=")[0] for word in argv}

    @functools.cache
    def read(ckpt: str) -> Any:
        from ddpm_lab.config.evaluated import trained_by

        return trained_by(ckpt)

    def check(cfg: Any, dirs: Sequence[Path], sweep: bool) -> None:
        from ddpm_lab.config.evaluated import completed  # imports torch, once names are right

        completed(cfg, dirs, typed, read)

    arms = preflight(with_own_parts(argv, dirs), dirs, check)
    if not arms:
        raise UserError("evaluate.py shows nothing of Hydra's own; its keys are in --help")
    from ddpm_lab.config.build_evaluation import evaluate_all

    print("".join(f"{note}\n" for note in [*notes, *of_all]), end="")
    if not evaluate_all([arm.config for arm in arms]):
        sys.exit(3)


def with_variances(argv: list[str], dirs: Sequence[Path]) -> tuple[list[str], list[str]]:
    """With what `variance=all` stands for, if it is there, and a line about it."""
    if not any(word.startswith("variance=") and "all" in word.partition("=")[2].split(",") for word in argv):
        return argv, []
    from ddpm_lab.config.ladder import with_all_variances  # imports torch

    return with_all_variances(argv, dirs)


def with_own_parts(argv: list[str], dirs: Sequence[Path]) -> list[str]:
    """`sampler.steps=50` alone is about the run's own sampler: its name, and its other values where they are not the option's
    own, are put beside it. The same holds of the guidance, where that of the run has values."""
    typed = {key: value for key, _, value in (word.partition("=") for word in argv)}
    for group in ("sampler", "guidance"):
        asked = any(key.startswith(f"{group}.") for key in typed)
        if not asked or group in typed or "ckpt" not in typed or "," in typed["ckpt"]:
            continue
        from ddpm_lab.config.evaluated import option_of, trained_by

        own = plain(trained_by(typed["ckpt"])[0]).get(group) or {}
        if own.keys() > {"_target_"}:
            option = option_of(group, own, dirs)
            usual = content(group, option, dirs)
            others = {f"{group}.{key}": value for key, value in own.items() if key not in usual or value != usual[key]}
            argv = [*argv, f"{group}={option}", *(f"{key}={shown(value)}" for key, value in others.items() if key not in typed)]
    return argv


if __name__ == "__main__":
    main()
