"""From the configurations of figures.py to figures in files."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.build_evaluation import choice_of, prepare, subject_of
from ddpm_lab.config.build_sample import CONFIG, asked, check_apart, check_free, model_of
from ddpm_lab.config.instantiate import instantiate
from ddpm_lab.config.nested import Config, plain
from ddpm_lab.config.options import content, options, target
from ddpm_lab.config.unfitted import unfitted
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.figure import PaperFigure, Trained, write
from ddpm_lab.evaluation.measure import device_of
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.files import held, new_folder, unwritable, write_text
from ddpm_lab.models.measurement import Likelihood
from ddpm_lab.signals import work_begins

OF_SUBJECT = ("folder", "checkpoint", "weights", "device", "seed", "batch")
LEARNED = "ddpm_lab.core.gamma.learned"
"""A schedule of which nothing is known before training."""


def draw_all(configs: Sequence[DictConfig], dirs: Sequence[Path]) -> None:
    """Draws the figure of every configuration. Raises UserError before any work."""
    prepare()
    check_apart(configs)
    loaded = lru_cache(maxsize=1)(subject_of)
    for cfg in configs:
        _checked(plain(cfg), loaded, dirs)
    work_begins()
    for cfg in configs:
        _draw(cfg, loaded, dirs)


def _checked(cfg: Config, loaded: Callable[..., Subject], dirs: Sequence[Path]) -> tuple[PaperFigure, Subject | None]:
    """Raises UserError for what cannot be drawn or written."""
    figure: PaperFigure = instantiate(cfg, "figure", schedules=_schedules(cfg, dirs))
    if cfg["ckpt"] is None:  # of a figure that needs none
        check_free(cfg, None)
        return figure, None
    device_of(cfg["device"])
    subject = loaded(*(cfg[key] for key in OF_SUBJECT))
    check_free(cfg, subject)
    assert subject.run.diffusion  # or the model has none, and it says so
    if len(subject.run.model.shape) != 3 and not figure.of_vectors:
        raise UserError(f"figure={cfg['name']}: the data of this run are vectors, and it shows pictures")
    if subject.run.model.classes is not None and not figure.of_classes:
        fitting = "progressive, neighbours, forward and schedules"
        raise UserError(f"figure={cfg['name']}: not of a conditional model yet; {fitting} are")
    figure.check(Trained(subject, Choice(model_of(cfg, subject), dict(cfg["names"]))))
    return figure, subject


def _schedules(cfg: Config, dirs: Sequence[Path]) -> dict[str, NoiseSchedule]:
    """Of every option that is known before training, neither fitted nor learned, with the T of the figure; none for a figure
    without."""
    if "T" not in cfg["figure"]:
        return {}
    changed = {"T": cfg["figure"]["T"]}
    found = {
        name: content("schedule", name, dirs) | changed for name, path in options("schedule", dirs).items() if target(path)
    }
    nodes = {name: {"schedule": node} for name, node in found.items() if node["_target_"] != LEARNED}
    return {name: instantiate(node, "schedule") for name, node in nodes.items() if unfitted(node) is None}


def _draw(config: DictConfig, loaded: Callable[..., Subject], dirs: Sequence[Path]) -> None:
    cfg = plain(config)
    figure, subject = _checked(cfg, loaded, dirs)
    of = None if subject is None else Trained(subject, choice_of(cfg, Likelihood(chain="sampler"), subject))
    drawn = figure.draw(of)  # type: ignore[arg-type]
    parent = Path(cfg["folder"]) if subject else Path("outputs")
    folder = new_folder(parent / "figures", "ckpt") if cfg["out"] is None else Path(cfg["out"]).expanduser()
    with held(folder, "out"):
        with unwritable(folder, "out"):
            write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(asked(cfg, subject))))
        written = write(cfg["name"], drawn, of, folder)
    print(f"{folder}\n{written[-2].read_text()}", end="")
    print("".join(f"  {path.name}\n" for path in written), end="")
