"""`python evaluate.py`: answers mistakes at once, then measures one network under every choice that was asked for."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddpm_lab.cli.help import EVALUATE, help_for_group, help_text
from ddpm_lab.cli.options import conf_dir, config_dirs
from ddpm_lab.compat import check_evaluated
from ddpm_lab.errors import ToldElsewhere, UserError

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as in training


WORK = "work"
"""Beside the results: what was measured, in pieces."""


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 130 stopped."""
    try:
        _main(sys.argv[1:])
    except ToldElsewhere as error:
        sys.exit(error.code)
    except UserError as error:
        _refuse(error)
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _refuse(error: UserError) -> NoReturn:
    if not isinstance(error, ToldElsewhere):
        print(f"error: {error}", file=sys.stderr)
    sys.exit(error.code)


def _main(argv: list[str]) -> None:
    dirs = [conf_dir() / "evaluate", *config_dirs(argv)]
    if "--help" in argv or "-h" in argv:
        groups = [argument for argument in argv if not argument.startswith("-") and "=" not in argument]
        print(help_for_group(groups[0], dirs, EVALUATE) if groups else help_text(dirs, EVALUATE))
        return
    from ddpm_lab.cli.overrides import canonical
    from ddpm_lab.cli.preflight import preflight

    argv, notes = canonical(argv, dirs)
    arms = preflight(argv, dirs, completed)
    if not arms:
        raise UserError("evaluate.py shows nothing of Hydra's own; its keys are in --help")
    from ddpm_lab.evaluation.measure import measure

    print("".join(f"{note}\n" for note in notes), end="")
    measure([arm.config for arm in arms])


def completed(cfg: DictConfig, dirs: Sequence[Path], sweep: bool) -> None:
    """The run's own choices in place of `auto`, and what it cannot be asked refused. `trained` is put beside the rest: the
    configuration that the network was trained by."""
    from ddpm_lab.cli.preflight import is_folder_name
    from ddpm_lab.resume import located

    _check_name(cfg.name)
    checkpoint, folder = located(Path(cfg.ckpt).expanduser(), "ckpt")
    if folder is None:
        from ddpm_lab.training.checkpoint import read_checkpoint

        trained = OmegaConf.create(read_checkpoint(checkpoint)["config"])
    else:
        trained = _stored(folder / "config.yaml")
    if not isinstance(trained, DictConfig) or "variance" not in trained or "sampler" not in trained:
        raise UserError(f"ckpt={cfg.ckpt}: the configuration beside it is not one of a run")
    if cfg.name is not None and not is_folder_name(cfg.name):
        raise UserError(f"name={cfg.name}: allowed is a folder name, without / and no dot in front")
    OmegaConf.set_struct(cfg, False)
    cfg.checkpoint = str(checkpoint)
    cfg.folder = str(folder or checkpoint.parent)
    check_evaluated(cfg, trained, dirs)


def _check_name(name: str | None) -> None:
    from ddpm_lab.cli.preflight import is_folder_name

    if name is not None and (not is_folder_name(name) or name == WORK):
        raise UserError(f"name={name}: allowed is a folder name, without / and no dot in front, and not {WORK}")


def _stored(path: Path) -> Any:
    try:
        return OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not readable as a configuration: {' '.join(str(error).split())}") from error
