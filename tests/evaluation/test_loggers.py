"""What an evaluation says reaches its files and each logger, and leaves the run's own curves as they were."""

import csv
import json

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training.logging_support import no_account  # noqa: F401
from training.wandb_file import runs

from .support import DIGITS, copied, evaluate

DRAWN = True
"""Plots are looked at here."""


@pytest.fixture(scope="module")
def logged(run_of, tmp_path_factory):
    """An evaluation told to every logger, and metrics.csv as it was before."""
    run = copied(run_of(*DIGITS), tmp_path_factory.mktemp("logged") / "run")
    before = (run / "metrics.csv").read_bytes()
    return run, evaluate(run, "-m", "logger=all", "logger.mode=offline", "sampler=ddim", "sampler.steps=4,5"), before


def rows(told) -> list[list]:
    return [
        [arm["sampler"], arm["steps"], arm["variance"], arm["setting"], r["key"], r["value"], r["standard_error"]]
        for arm in told.arms
        for r in arm["results"]
    ]


def test_metrics_csv_is_training_s_alone(logged):
    run, _, before = logged
    assert (run / "metrics.csv").read_bytes() == before


def test_wandb_holds_the_table_and_the_pictures(logged):
    run, told, _ = logged
    (sent,) = runs(run)
    assert sent.exit_code == 0
    ((step, _),) = sent.values("eval/e").items()
    assert sent.table("eval/e", step)["data"] == rows(told)
    for path in told.folder.glob("*.png"):
        (picture,) = sent.values(f"eval/e/{path.stem}").values()
        assert (sent.files / picture["path"]).read_bytes() == path.read_bytes()


def test_tensorboard_holds_the_table_and_the_pictures(logged):
    run, told, _ = logged
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "tensors": 0}).Reload()
    text = events.Tensors("eval/e/text_summary")[-1].tensor_proto.string_val[0].decode()
    for sampler, steps, variance, _, key, value, _ in rows(told):
        assert f"| {sampler} | {steps} | {variance} |  | {key} | {value} |" in text
    assert {f"eval/e/{path.stem}" for path in told.folder.glob("*.png")} <= set(events.Tags()["images"])


def test_each_file_says_what_it_holds(logged):
    _, told, _ = logged
    with (told.folder / "evaluation.csv").open() as file:
        numbers = [(row["key"], float(row["value"])) for row in csv.DictReader(file)]
    assert numbers == [(key, value) for *_, key, value, _ in rows(told)]
    assert json.loads((told.folder / "evaluation.json").read_text()) == told.content


def test_each_choice_has_its_pictures_and_all_have_one(logged):
    _, told, _ = logged
    for name in ("sweep.png", "bound_20_beta.png", "bound_4_beta.png", "bound_5_beta.png", *(a["picture"] for a in told.arms)):
        with Image.open(told.folder / name) as picture:
            assert len(picture.getcolors(1_000_000)) > 1
