"""compare.py explain: a run against a published result, knob by knob."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from compare.synthetic import config, write_run
from compare.test_command import command, said
from compare.test_papers import OPTIONS, SHA256, trained_by
from ddpm_lab.compare.explain import FLOOR, Explanation, arms, explain
from ddpm_lab.compare.papers import QUANTITIES, known_effects, names, papers
from ddpm_lab.compare.run_folder import read_run

RECORD = {
    "n": 50_000, "extractor": "inception", "extractor_weights_sha256": SHA256, "reference": "train", "n_reference": 50_000,
    "weights": "ema/0.9999", "sampler": "ancestral", "variance": "beta", "steps": 1000, "T": 1000, "spacing": "trailing",
    "eta": None, "clip": True, "step": 800_000,
}  # fmt: skip
"""Of FID as `published=ddpm_cifar10` was measured."""


def write(path: Path, fid: float | None = 3.17, changes: dict[str, Any] | None = None, **record: Any) -> Path:
    """A run of experiment=ddpm_cifar10 but for `changes`, by dotted keys, whose FID has the record above but for `record`."""
    made = copy.deepcopy(trained_by("ddpm_cifar10"))
    for key, value in (changes or {}).items():
        group, _, name = key.partition(".")
        made[group][name] = value
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(made))
    metrics = {} if fid is None else {"fid": {"value": fid} | RECORD | record}
    (path / "summary.json").write_text(json.dumps({"seed": 0, "step": 800_000, "metrics": metrics}))
    return path


def evaluate(run: Path, name: str, *fids: tuple[float, dict[str, Any]]) -> Path:
    """An evaluation of the run: each FID with what its record has else."""
    folder = run / "eval" / name
    folder.mkdir(parents=True)
    written = []
    for value, record in fids:
        how = RECORD | record
        result = {"key": "fid", "value": value, "standard_error": None, "record": how}
        written.append({key: how[key] for key in ("sampler", "steps")} | {"variance": "auto", "results": [result]})
    (folder / "evaluation.json").write_text(json.dumps({"weights": "ema/0.9999", "arms": written}))
    return folder


def explained(run: Path, published: str = "ddpm_cifar10", quantity: str = "fid") -> Explanation:
    return explain(arms(read_run(run), quantity, OPTIONS), papers(published, quantity), quantity)


def changes_of(found: Explanation) -> dict[str, float]:
    return {", ".join(d.knobs): d.effect.change for d in found.known if d.effect and d.effect.change is not None}


DDIM = {"sampler": "ddim", "eta": 0.0, "variance": None}

# --- differences ------------------------------------------------------------------------------------------------------------


def test_where_nothing_differs_the_floor_of_retraining_remains(tmp_path):
    run = write(tmp_path / "run", fid=3.2)
    found = explained(run)
    assert (found.differences, found.unstated) == ([], [])
    assert set(found.agreed) == found.paper.facts.keys()
    assert found.rest == pytest.approx(0.03)
    out = said("explain", run, "published=ddpm_cifar10")
    assert f"{len(found.agreed)} knobs agree" in out
    assert f"{FLOOR:.1%}" in out
    assert "within" in out
    assert "python" not in out
    write(tmp_path / "other", fid=3.4)
    assert "beyond" in said("explain", tmp_path / "other", "published=ddpm_cifar10")


def test_known_effects_come_by_size_and_the_rest_is_what_they_leave(tmp_path):
    run = write(tmp_path / "run", 14.0, {"optim.lr": 0.001, "net.dropout": 0.0}, weights="raw", reference="val")
    found = explained(run)
    assert changes_of(found) == pytest.approx({"weights": 12.1 - 3.21, "reference": 5.24 - 3.17})
    assert [d.knobs[0] for d in found.differences] == ["weights", "reference", "net.dropout", "optim.lr"]
    assert found.rest == pytest.approx(14.0 - 3.17 - (12.1 - 3.21) - (5.24 - 3.17))
    out = said("explain", run, "published=ddpm_cifar10")
    rows = [line.split() for line in out.splitlines()]
    assert ["optim.lr", "0.001", "0.0002"] in [row[:3] for row in rows]


def test_few_samples_come_before_all_that_is_smaller(tmp_path):
    few, more = (explained(write(tmp_path / str(n), 40.0, n=n, weights="raw")) for n in (1000, 10_000))
    assert [d.knobs[0] for d in few.differences] == ["n", "weights"]
    assert [d.knobs[0] for d in more.differences] == ["weights", "n"]


@pytest.mark.parametrize(
    ("published", "changes", "record", "ends"),
    [
        ("ddpm_cifar10", {}, DDIM | {"steps": 50}, 7.74 - 3.04),
        ("ddpm_cifar10", {}, {"variance": "analytic", "steps": 100, "clip_cov": True}, 5.40 - 3.04),
        ("ddpm_cifar10", {"schedule": "cosine"}, {"variance": "beta_tilde"}, 4.92 - 3.04),
        ("iddpm_cifar10", {"images": 64_000_000}, {"step": 500_000}, 3.29 - 3.19),
        ("ddpm_cifar10_mu_vlb", {}, {}, 3.17 - 13.22),
    ],
)
def test_effects_of_a_path_sum_to_the_difference_of_its_ends(published, changes, record, ends, tmp_path):
    """By hand from the published tables."""
    changed = {"schedule._target_": "ddpm_lab.core.schedule.cosine"} if changes.get("schedule") else {}
    found = explained(write(tmp_path / "run", 9.0, changed, **record), published)
    known = changes_of(found)
    known.pop("images", None)
    assert sum(known.values()) == pytest.approx(ends)


def test_settings_of_another_sampler_go_with_it(tmp_path):
    found = explained(write(tmp_path / "run", 4.0, **DDIM))
    assert [d.knobs for d in found.differences] == [("sampler", "variance")]
    assert found.known


def test_images_seen_are_steps_times_batch(tmp_path):
    found = explained(write(tmp_path / "run", 9.2, {"data.batch_size": 256}, step=23_398))
    images = next(d for d in found.differences if d.knobs == ("images",))
    assert images.yours == (23_398 * 256,)
    assert images.effect is not None
    assert images.effect.change == pytest.approx(9.162 - 3.188, abs=1e-3)


def test_what_is_published_of_no_such_setting_is_not_known(tmp_path):
    """A variance at a number of steps that no table has; other data."""
    found = explained(write(tmp_path / "run", 9.0, {"data._target_": "ddpm_lab.data.mnist.MNIST"}, steps=50, weights="raw"))
    assert found.known == []
    found = explained(write(tmp_path / "five", 9.0, steps=5))
    assert [d.effect for d in found.differences] == [None]


def test_other_data_and_another_extractor_are_said_first(tmp_path):
    changes = {"data._target_": "ddpm_lab.data.mnist.MNIST"}
    run = write(tmp_path / "run", 9.0, changes, weights="raw", extractor_weights_sha256="f" * 64)
    found = explained(run)
    assert {d.knobs[0] for d in found.barred} == {"data", "extractor_weights_sha256"}
    assert found.differences[:2] == found.barred
    assert found.rest is None
    head, table = said("explain", run, "published=ddpm_cifar10").split("knob", 1)
    assert "Not comparable" in head
    assert "mnist" in table
    assert "explained by" not in table


def test_another_extractor_comes_before_any_effect(tmp_path):
    found = explained(write(tmp_path / "run", 9.0, weights="raw", extractor_weights_sha256="f" * 64))
    assert [d.knobs[0] for d in found.differences] == ["extractor_weights_sha256", "weights"]


def test_unverified_numbers_are_called_so(tmp_path):
    found = explained(write(tmp_path / "run", step=500_000), "iddpm_cifar10")
    assert {d.knobs[0] for d in found.known if d.effect and d.effect.unverified} == {"schedule.T"}
    assert "unverified" in said("explain", tmp_path / "run", "published=iddpm_cifar10")


def test_settings_of_another_option_are_not_missed(tmp_path):
    """A linear schedule has no offset; and of a run without dropout on record that is said."""
    run = write(tmp_path / "run")
    content = yaml.safe_load((run / "config.yaml").read_text())
    del content["net"]["dropout"]
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    assert explained(run, "iddpm_cifar10").unstated == ["net.dropout"]
    assert "net.dropout" in said("explain", run, "published=ddpm_cifar10")


def test_bits_are_explained_by_the_record_of_the_bound(tmp_path):
    run = write(tmp_path / "run")
    content = json.loads((run / "summary.json").read_text())
    how = {"n": 10_000, "split": "val", "variance": "beta_tilde", "steps": 1000, "T": 1000, "clip": True, "step": 800_000}
    content["metrics"]["bound_bpd"] = {"value": 3.74} | how
    (run / "summary.json").write_text(json.dumps(content))
    found = explained(run, quantity="bits")
    assert changes_of(found) == pytest.approx({"variance": 3.73 - 3.75})
    assert "bits/dim" in said("explain", run, "published=ddpm_cifar10", "of=bits")


def test_remarks_on_fid_are_not_of_bits(tmp_path):
    """The same knobs differ from the bound's record; what is known of FID is not said of bits/dim."""
    _, remarks = known_effects()
    for remark in remarks:
        assert remark.of == "fid" or "FID" not in remark.says, remark.knob
    run = write(tmp_path / "run", 40.0, n=1000)
    content = json.loads((run / "summary.json").read_text())
    content["metrics"]["bound_bpd"] = {
        "value": 3.9,
        "n": 100,
        "split": "val",
        "spacing": "quadratic",
        "T": 1000,
        "step": 800_000,
    }
    (run / "summary.json").write_text(json.dumps(content))
    (n,) = (d for d in explained(run, quantity="bits").differences if d.knobs == ("n",))
    assert n.effect is None
    (n,) = (d for d in explained(run).differences if d.knobs == ("n",))
    assert n.effect is not None


def test_the_floor_is_no_verdict_where_the_effect_of_a_knob_is_not_known(tmp_path):
    write(tmp_path / "run", 3.9, {"optim.lr": 0.001})
    out = said("explain", tmp_path / "run", "published=ddpm_cifar10")
    assert "floor of retraining" in out
    assert "beyond" not in out


# --- which number -----------------------------------------------------------------------------------------------------------


def test_the_nearest_number_is_explained_or_the_one_that_is_named(tmp_path):
    run = write(tmp_path / "run", 3.3, weights="raw")
    quick = evaluate(run, "quick", (40.0, {"n": 1000, "weights": "raw"}), (7.0, DDIM | {"steps": 50}))
    evaluate(run, "full", (3.25, {}))
    words = ("explain", run, "published=ddpm_cifar10")
    assert explained(run).arm.number.value == 3.25  # type: ignore[union-attr]
    assert "3.25" in said(*words)
    assert "3.30" in said(*words, "arm=trained")
    assert "7.00" in said(*words, "arm=quick,steps=50")
    assert "7.00" in said("explain", quick, "published=ddim_cifar10")


def test_of_equal_numbers_the_later_counts_and_one_that_may_not_be_compared_counts_last(tmp_path):
    run = write(tmp_path / "run", 3.3)
    for i, name in enumerate(("b", "a")):
        folder = evaluate(run, name, (3.4 + i, {}))
        os.utime(folder / "evaluation.json", (i, i))
    assert explained(run).arm.number.value == 4.4  # type: ignore[union-attr]
    other = write(tmp_path / "other", 3.3, extractor_weights_sha256="f" * 64)
    evaluate(other, "far", (60.0, {"n": 1000, "weights": "raw", "reference": "val"}))
    assert explained(other).arm.number.value == 60.0  # type: ignore[union-attr]


def test_of_a_table_the_row_with_as_many_steps_is_taken(tmp_path):
    for steps, value in ((10, 13.36), (50, 4.67), (1000, 4.04)):
        found = explained(write(tmp_path / str(steps), 5.0, **DDIM, steps=steps, spacing="quadratic"), "ddim_cifar10")
        assert (found.paper.value, found.paper.unverified) == (value, steps != 50)
        assert found.differences == []


def test_without_a_fid_it_says_what_to_type(tmp_path):
    run = write(tmp_path / "run", None, {"optim.lr": 0.001})
    found = explained(run)
    assert (found.arm.number, found.rest) == (None, None)
    assert [d.knobs[0] for d in found.differences] == ["optim.lr"]
    assert f"python evaluate.py ckpt={run} {found.paper.evaluate}" in said("explain", run, "published=ddpm_cifar10")


# --- mistakes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["RUN"], ["published=", "ddpm_cifar10"]),
        (["RUN", "published=ddpm_cifr10"], ["published=ddpm_cifr10", *names()]),
        (["RUN", "pulbished=ddpm_cifar10"], ["pulbished", "published"]),
        (["RUN", "published=ddpm_cifar10", "of=is"], ["of=is", *QUANTITIES]),
        (["RUN", "published=ddim_cifar10", "of=bits"], ["of=bits", "ddim_cifar10"]),
        (["RUN", "published=ddpm_cifar10", "arm=ddim"], ["arm=ddim", "as trained"]),
        (["RUN", "published=ddpm_cifar10", "arm=ddim", "of=bits"], ["arm=ddim", "RUN", "bits/dim"]),
        (["published=ddpm_cifar10"], ["run folder"]),
        (["RUN", "RUN", "published=ddpm_cifar10"], ["one run folder", "RUN, RUN"]),
        (["nowhere", "published=ddpm_cifar10"], ["nowhere", "no such folder"]),
        (["RUNS", "published=ddpm_cifar10"], ["2 runs", "RUNS/0", "RUNS/1"]),
        (["EMPTY", "published=ddpm_cifar10"], ["EMPTY"]),
        (["VAE", "published=ddpm_cifar10"], ["VAE", "schedule"]),
    ],
)
def test_a_mistake_is_one_line(arguments, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("RUN"))
    Path("EMPTY").mkdir()
    for i in range(2):
        write_run(Path("RUNS", str(i)), config(i))
    made = config(0)
    made["model"] = {"_target_": "ddpm_lab.models.vae.VAE"}
    write_run(Path("VAE"), made)
    (Path("VAE") / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in made.items() if k != "schedule"}))
    code, out, err = command("explain", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert [word for word in named if word not in err] == []


def test_explain_alone_lists_what_is_published():
    assert [name for name in names() if name not in said("explain")] == []
