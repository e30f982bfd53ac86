"""`python sample.py`: answers mistakes at once, then draws samples from one network and writes them to files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddpm_lab.cli.arguments import run
from ddpm_lab.cli.evaluate import with_own_parts
from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.grammar import canonical
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""
    run(_main, stopped="stopped; what was drawn is kept, and the same command goes on from there")


def _main(argv: list[str]) -> None:
    dirs = [conf_dir() / "sample", conf_dir() / "evaluate", *config_dirs(argv)]
    if "--help" in argv or "-h" in argv:
        from ddpm_lab.config.help import SAMPLE, printed

        printed(argv, dirs, SAMPLE)
        return

    def complete(cfg: Any) -> None:
        from ddpm_lab.config.evaluated import completed_for_samples  # imports torch, once names are right

        completed_for_samples(cfg, dirs)

    configs = configurations(argv, dirs, complete)
    from ddpm_lab.config.build_sample import sample_all

    sample_all(configs)


def configurations(argv: list[str], dirs: Sequence[Path], complete: Callable[[Any], None]) -> list[Any]:
    """What a command line asks of a trained network, checked. `complete` puts in place what the run decides."""
    argv, notes = canonical(argv, dirs)
    arms = preflight(with_own_parts(argv, dirs), dirs, lambda cfg, dirs, sweep: complete(cfg))
    if not arms:
        raise UserError(f"{dirs[0].name}.py shows nothing of Hydra's own; its keys are in --help")
    print("".join(f"{note}\n" for note in notes), end="")
    return [arm.config for arm in arms]


if __name__ == "__main__":
    main()
