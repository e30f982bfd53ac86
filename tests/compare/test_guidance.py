"""Guidance is an axis like any other, on which no bound depends; runs of earlier versions are unguided and unconditional."""

import json

import pytest

from compare.synthetic import DATA, config, write_evaluation, write_run
from compare.test_construction import write_scored
from compare.test_report import comparison
from ddpm_lab.compare.choices import flat_config
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.compare.report import Stage, report
from ddpm_lab.metrics.record import incomparable, record

NONE = {"_target_": "ddpm_lab.core.guidance.Unguided"}
FREE = {"_target_": "ddpm_lab.core.guidance.ClassifierFree", "scale": 2.0, "interval": None}
NAMES = {("guidance", NONE["_target_"]): "none", ("guidance", FREE["_target_"]): "classifier_free"}
CONDITIONAL = DATA | {"conditional": True, "label_dropout": 0.1}


def test_runs_differ_by_their_guidance_in_samples_alone(tmp_path):
    for seed in (1, 2):
        for name, guidance, fd in (("a", NONE, 9.0), ("b", FREE, 8.0)):
            cfg = config(seed, guidance=guidance, data=CONDITIONAL)
            write_scored(tmp_path / f"{name}{seed}", cfg, 3.0, fd + seed / 50, guidance_scale=guidance.get("scale", 1.0))
    (study,) = report([tmp_path], None, 0.95, NAMES).studies
    assert study.compared.free == ["guidance"]
    fd, bound = (comparison(study, "classifier_free", key) for key in ("pixels_fd", "bound_bpd"))
    assert fd.verdict is Verdict.BETTER
    assert (bound.verdict, bound.copy.unused) == (Verdict.CONSTRUCTION, ("guidance",))


def test_evaluations_differ_by_their_guidance(tmp_path):
    for seed in (1, 2):
        run = write_run(tmp_path / str(seed), config(seed, guidance=NONE, data=CONDITIONAL))
        write_evaluation(run, {("ddim", 4, "beta"): (3.0, 9.0 + seed), ("ddim", 4, "beta_tilde"): (3.0, 7.0 + seed)})
        path = run / "eval" / "e" / "evaluation.json"
        content = json.loads(path.read_text())
        for arm, guidance in zip(content["arms"], ("none", "scale 2.0"), strict=True):
            arm |= {"variance": "beta", "guidance": guidance}
        path.write_text(json.dumps(content))
    study = next(s for s in report([tmp_path], None, 0.95, {}).studies if s.stage is Stage.EVALUATED)
    assert study.compared.free == ["evaluated.guidance"]
    assert comparison(study, "guidance=scale 2.0", "pixels_fd").verdict is Verdict.BETTER


def test_a_run_of_before_is_the_same_choice_as_one_of_now():
    before, now = config(1), config(1, guidance=NONE, data=DATA | {"conditional": False, "label_dropout": 0.1})
    assert flat_config(before) == flat_config(now)
    assert flat_config(config(1, guidance=NONE, data=CONDITIONAL)) != flat_config(now)


def test_bounds_given_the_class_are_held_against_their_like_alone():
    plain, given = record(n=5, split="val"), record(n=5, split="val", given="class", labels_sha256="ab")
    assert {difference.field for difference in incomparable(plain, given)} == {"given", "labels_sha256"}
    samples = record(n=5, split="samples"), record(n=5, split="samples", guidance_scale=2.0, classes="by training frequency")
    assert incomparable(*samples) == []


@pytest.mark.parametrize("key", ["pixels_fd_class", "classifier_fd_class@1000", "fid_class"])
def test_the_distance_within_classes_is_lower_for_the_better_and_not_judged(key):
    measure = measure_of(key)
    assert (measure.better, measure.judged, measure.distance) == (-1, False, False)
    assert "within classes" in measure.label
