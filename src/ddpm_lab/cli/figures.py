"""`python figures.py`: answers mistakes at once, then draws a figure of one network with its caption."""

from typing import Any

from ddpm_lab.cli.arguments import run
from ddpm_lab.cli.sample import configurations
from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.options import conf_dir


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""
    run(_main)


def _main(argv: list[str]) -> None:
    dirs = [conf_dir() / "figures", conf_dir() / "evaluate", *config_dirs(argv)]
    if "--help" in argv or "-h" in argv:
        from ddpm_lab.config.help import FIGURES, printed

        printed(argv, dirs, FIGURES)
        return

    def complete(cfg: Any) -> None:
        from ddpm_lab.config.evaluated import completed_for_figures  # imports torch, once names are right

        completed_for_figures(cfg, dirs)

    configs = configurations(argv, dirs, complete)
    from ddpm_lab.config.build_figures import draw_all

    draw_all(configs, dirs)


if __name__ == "__main__":
    main()
