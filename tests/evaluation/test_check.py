"""Numbers of a run against the bands where they are expected."""

import pytest

from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.check import Band, judge, read
from ddpm_lab.files import SUMS, write_sums

from .support import evaluate, refusal

ROWS = "train/images_seen,train/loss\n100,9.0\n,\n900,0.5\n1000,0.3\n1100,7.0\n"


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("fid: 5 to 8", Band("fid", None, 5, 8)),
        ("bound_gap: -0.5 to 1e-2", Band("bound_gap", None, -0.5, 0.01)),
        ("train/loss at 500000 images: 0.03 to 0.04", Band("train/loss", 500000, 0.03, 0.04)),
        ("pixels_fd@256: 0 to 1", Band("pixels_fd@256", None, 0, 1)),
    ],
)
def test_a_band_is_read(text, band):
    assert read(text) == band


@pytest.mark.parametrize(
    "text", ["fid", "fid: 5", "fid: 8 to 5", "fid: a to b", "fid: 5 to 8 or so", "fid at x images: 5 to 8", "fid: 1e to 2"]
)
def test_what_is_no_band_is_refused_by_name(text):
    with pytest.raises(UserError, match="expected="):
        read(text)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("bound: 2 to 4", True),
        ("bound: 3 to 3", True),  # both ends belong to it
        ("bound: 3.1 to 4", False),
        ("bound: 2 to 2.9", False),
        ("fid: 0 to 100", False),  # not measured
        ("train/loss at 1000 images: 0.39 to 0.41", True),  # rows from 900 to 1000
        ("train/loss at 1000 images: 0.2 to 0.35", False),
        ("train/loss at 2000 images: 0 to 100", False),  # not reached
        ("train/los at 1000 images: 0 to 100", False),
        ("bound at 1000 images: 0 to 100", False),  # not of training
    ],
)
def test_a_number_holds_within_its_band_alone(text, holds, tmp_path):
    (tmp_path / "metrics.csv").write_text(ROWS)
    (judged,) = judge([read(text)], {"bound": 3.0}, tmp_path)
    assert judged.holds == holds


@pytest.mark.parametrize("change", ["1000,abc", "900,0.2"])
def test_a_curve_that_was_changed_or_is_no_number_is_not_measured(change, tmp_path):
    (tmp_path / "metrics.csv").write_text(ROWS)
    write_sums(tmp_path, ["metrics.csv"])
    if change == "1000,abc":
        (tmp_path / SUMS).unlink()
    (tmp_path / "metrics.csv").write_text(ROWS + change + "\n")
    (judged,) = judge([read("train/loss at 1000 images: 0 to 100")], {}, tmp_path)
    assert judged.value is None


def test_a_checkpoint_without_its_folder_has_no_curve(tmp_path):
    (judged,) = judge([read("train/loss at 10 images: 0 to 1")], {}, tmp_path)
    assert not judged.holds


def test_bands_that_hold_and_fail_are_named_and_the_exit_code_says_it(run, capsys):
    holds, fails = "pixels_fd: 0 to 1000000", "bound: 0 to 0.001"
    evaluate(run, f"expected=['{holds}']")
    assert "all 1 bands hold" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        evaluate(run, f"expected=['{holds}','{fails}']")
    assert ended.value.code == 3
    printed = capsys.readouterr().out
    assert "1 of 2 bands fail: bound" in printed
    assert "FAILS  bound: " in printed


def test_a_malformed_band_is_refused_before_anything_is_measured(run, capsys):
    assert "expected=fid" in refusal(capsys, f"ckpt={run}", "expected=[fid]")
    assert not (run / "eval" / "work").exists()


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("bund: 0 to 9", "bound"), ("bound_tain: 0 to 9", "bound"), ("train/los at 9 images: 0 to 1", "train/loss")],
)
def test_a_number_that_cannot_be_is_told_before_anything_is_measured(text, allowed, run, capsys):
    told = refusal(capsys, f"ckpt={run}", f"expected=['{text}']")
    assert f"expected={text}" in told
    assert allowed in told
    assert not (run / "eval" / "work").exists()


def test_parts_of_numbers_may_be_expected(run, capsys):
    parts = ["bound_prior", "bound_kl", "bound_gap", "bound_train", "pixels_fd_real", "pixels_kid", "pixels_precision"]
    parts += ["bound_gap_q4", "pixels_mind", "pixels_c_t", "pixels_authenticity", "pixels_authenticity_real"]
    with pytest.raises(SystemExit):
        evaluate(run, f"expected={[f'{part}: -9 to -8' for part in parts]}")
    assert "not measured" not in capsys.readouterr().out
