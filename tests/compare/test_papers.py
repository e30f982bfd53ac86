"""The files of published results: complete, of knobs that exist, and as the experiments and commands that repeat them."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers import CONF, composed
from omegaconf import OmegaConf

from ddpm_lab.compare.explain import facts
from ddpm_lab.compare.papers import (
    ABSENT,
    CONFIGURED,
    KINDS,
    QUANTITIES,
    RECORDED,
    Paper,
    between,
    known_effects,
    names,
    papers,
    same,
)
from ddpm_lab.compare.run_folder import RunFolder
from ddpm_lab.config.evaluated import apply_settings
from ddpm_lab.config.options import option_names
from ddpm_lab.config.preflight import preflight
from ddpm_lab.metrics.record import FIELDS, OF_SOME

OPTIONS = option_names([CONF])
SHA256 = "6726825d" + "0" * 56


@functools.cache
def trained_by(experiment: str) -> dict[str, Any]:
    """The configuration of a run."""
    return OmegaConf.to_container(composed(*f"experiment={experiment}".split()))  # type: ignore[return-value]


NUMBERS = [paper for name in names() for quantity in QUANTITIES for paper in papers(name, quantity)]
FIDS = [paper for name in names() for paper in papers(name, "fid")]


@pytest.mark.parametrize("paper", FIDS, ids=lambda paper: f"{paper.name}-{paper.facts['steps']}")
def test_every_published_fid_is_complete(paper: Paper):
    needed = {"n", "extractor", "extractor_weights_sha256", "reference", "weights", "sampler", "variance", "steps"}
    assert paper.facts.keys() >= needed | {"data", "data.batch_size", "schedule", "schedule.T", "prediction", "loss", "net"}
    assert any(str(year) in paper.source for year in range(2020, 2023))


def test_every_knob_of_the_files_exists():
    assert NUMBERS
    for paper in NUMBERS:
        assert paper.facts.keys() - KINDS.keys() == set(), paper.name
        assert ABSENT not in paper.facts.values()
        assert math.isfinite(paper.value)
    tables, remarks = known_effects()
    for table in tables:
        assert {*table.given, *(knob for row in table.rows for knob in row.facts), *filter(None, [table.over])} <= KINDS.keys()
        assert len({json.dumps([row.facts, sorted(row.values)]) for row in table.rows}) == len(table.rows)
    assert {remark.knob for remark in remarks} <= KINDS.keys()


def test_knobs_of_measuring_are_fields_of_records():
    recorded = {knob for knobs in RECORDED.values() for knob in knobs}
    assert recorded - {"extractor", "extractor_weights_sha256"} <= {*FIELDS, *OF_SOME}


@pytest.mark.parametrize("name", names())
def test_what_is_said_of_training_is_what_the_experiment_does(name):
    """All knobs, so one that is mistyped is none of the configuration."""
    (paper, *_) = papers(name, "fid")
    made = trained_by(paper.experiment)
    of_experiment = facts(RunFolder(Path(), made, {"step": made["trainer"]["max_steps"]}, {}), None, OPTIONS)
    configured = {knob for knobs in CONFIGURED.values() for knob in knobs}
    stated = {knob: value for knob, value in paper.facts.items() if knob in configured}
    assert {knob: of_experiment.get(knob, ABSENT) for knob in stated} == stated


@pytest.mark.parametrize("name", names())
def test_what_is_to_be_typed_measures_as_published(name):
    dirs, cfgs = [CONF / "evaluate", CONF], []
    first, *others = papers(name, "fid")
    for paper in (first, *others[-1:]):
        words = paper.evaluate.split()
        preflight(["ckpt=RUN", *words], dirs, lambda cfg, *_: cfgs.append(cfg))
        cfg, chosen = cfgs[-1], dict(word.split("=") for word in words)
        typed = {word.partition("=")[0] for word in words}
        apply_settings(cfg, cfg.settings, {"schedule": paper.facts["schedule"], **chosen}, typed, dirs)
        measured = {"n": cfg.quality.n, "reference": cfg.quality.reference, "sampler": chosen["sampler"]}
        measured |= {"steps": "all" if cfg.sampler.steps is None else cfg.sampler.steps}
        measured |= {key: cfg.sampler[key] for key in ("eta", "spacing", "max_last_noise") if key in cfg.sampler}
        measured |= {"clip_cov": cfg.variance.clip_cov} if "clip_cov" in cfg.variance else {}
        measured["extractor"] = OPTIONS["metrics", cfg.metrics["_target_"]]
        if "variance" in chosen and chosen["variance"] != "auto":
            measured["variance"] = chosen["variance"]
        assert {knob: paper.facts[knob] for knob in measured if knob in paper.facts} == {
            knob: value for knob, value in measured.items() if knob in paper.facts
        }


def test_between_published_numbers_the_course_is_a_power_law():
    values = {place: 50 * place**-0.5 for place in (10, 100)} | {"all": 50 * 1000**-0.5}
    for at in (10, 30, 100, 700):
        found = between(values, at, 1000)
        assert found is not None
        assert found.value == pytest.approx(50 * at**-0.5)
        assert found.published == (at in values)
    assert between(values, "all", 1000) == (values["all"], True)
    assert between(values, 1040, 1000) == (pytest.approx(values["all"]), False)
    assert [between(values, at, 1000) for at in (9, 1100, "none", None)] == [None] * 4


def test_values_are_the_same_by_kind_and_hashes_by_their_beginning():
    assert same("steps", 50, 50.0)
    assert not same("clip", True, 1)
    assert same("x_sha256", "6726825d", SHA256)
    assert not same("x_sha256", "6726825e", SHA256)
