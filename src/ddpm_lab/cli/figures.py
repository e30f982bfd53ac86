"""`python figures.py`: answers mistakes at once, then draws a figure of one network with its caption."""

from collections.abc import Sequence
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
    run(_main)


def _main(argv: list[str]) -> None:
    dirs = [conf_dir() / "figures", conf_dir() / "evaluate", *config_dirs(argv)]
    if "--help" in argv or "-h" in argv:
        from ddpm_lab.config.help import FIGURES, printed

        printed(argv, dirs, FIGURES)
        return
    argv, notes = canonical(argv, dirs)

    def check(cfg: Any, dirs: Sequence[Any], sweep: bool) -> None:
        from ddpm_lab.config.evaluated import completed_for_figures  # imports torch, once names are right

        completed_for_figures(cfg, dirs)

    arms = preflight(with_own_parts(argv, dirs), dirs, check)
    if not arms:
        raise UserError("figures.py shows nothing of Hydra's own; its keys are in --help")
    from ddpm_lab.config.build_figures import draw_all

    print("".join(f"{note}\n" for note in notes), end="")
    draw_all([arm.config for arm in arms], dirs)


if __name__ == "__main__":
    main()
