"""What was measured is kept: nothing is done twice, and a stop at any moment changes no number."""

import os
from pathlib import Path

import pytest
import torch

from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.store import Store
from ddpm_lab.models.gamma import GammaAtTimes

from .support import BROKEN, CALLS, DIGITS, Counted, copied, evaluate, found, kept, scored


@pytest.fixture(scope="module")
def unbroken(run_of, tmp_path_factory):
    """Of BROKEN, measured in one go."""
    run = copied(run_of(*DIGITS), tmp_path_factory.mktemp("unbroken") / "run")
    return run, evaluate(run, start=BROKEN)


def pieces(run: Path) -> dict[str, int]:
    """Every file of measured work, with the time it was written."""
    work = run / "eval" / "work"
    return {str(path.relative_to(work)): path.stat().st_mtime_ns for path in sorted(work.rglob("*.pt"))}


def test_the_same_again_asks_the_network_nothing(unbroken, monkeypatch):
    run, told = unbroken
    before, counted = pieces(run), Counted(monkeypatch)
    again = evaluate(run, "name=again", start=BROKEN)
    assert counted.n == 0
    assert pieces(run) == before
    assert again.arms == told.arms


def test_the_whole_takes_as_many_calls_as_it_has_pieces(run, monkeypatch):
    counted = Counted(monkeypatch)
    evaluate(run, start=BROKEN)
    assert counted.n == CALLS


@pytest.mark.parametrize(("stop", "done"), [(1, 0), (3, 2), (CALLS - 1, 3 + 4)])
def test_interrupted_it_goes_on_where_it_was(stop, done, unbroken, run, monkeypatch, capsys):
    """In the first piece, in the bound, in the second half of the samples."""
    with monkeypatch.context() as patch:
        Counted(patch, stop)
        with pytest.raises(SystemExit) as ended:
            evaluate(run, start=BROKEN)
    assert ended.value.code == 130
    assert "what was measured is kept, and the same command goes on from there" in capsys.readouterr().err
    counted = Counted(monkeypatch)
    assert scored(evaluate(run, start=BROKEN).arms) == scored(unbroken[1].arms)
    assert counted.n == CALLS - done


def test_an_arm_that_is_done_is_on_disk_when_the_next_is_stopped(unbroken, run, monkeypatch):
    Counted(monkeypatch, CALLS + 1)
    with pytest.raises(SystemExit):
        evaluate(run, "-m", "sampler.steps=4,5", start=BROKEN)
    assert scored(found(run).arms) == scored(unbroken[1].arms)


@pytest.mark.parametrize(("kind", "left"), [("bound", 0), ("samples", 100), ("gamma", 100), ("estimate", 0)])
def test_a_piece_that_is_cut_short_is_made_again(kind, left, run):
    ask = ["sampler=ddim", "sampler.steps=4", "nll.chain=sampler", *(["nll.terms=2"] if kind == "estimate" else [])]
    whole = evaluate(run, *ask, "variance=analytic")
    piece = next(kept(run, kind)[0].glob("*.pt"))
    os.truncate(piece, left)
    assert scored(evaluate(run, *ask, "variance=analytic").arms) == scored(whole.arms)
    assert torch.load(piece, weights_only=True)


def test_more_samples_take_the_pieces_there_are(unbroken, run, monkeypatch):
    evaluate(run, start=BROKEN)
    (place,) = kept(run, "samples")
    first, counted = place / "00000000-00000256.pt", Counted(monkeypatch)
    written = first.stat().st_mtime_ns
    more = evaluate(run, "quality.n=300", "name=more", start=BROKEN)
    assert counted.n == 4  # the steps of the second piece
    assert first.stat().st_mtime_ns == written
    fewer, all_of_them = (torch.load(place / f"00000256-00000{n}.pt", weights_only=True)["x"] for n in (260, 300))
    assert torch.equal(all_of_them[:4], fewer)
    assert more.record("pixels_fd")["n"] == 300
    assert more.value("bound_4") == unbroken[1].value("bound_4")


def test_gamma_is_measured_at_new_times_alone(run):
    ask = ["variance=analytic", "sampler=ddim", "nll.chain=sampler"]
    evaluate(run, *ask, "sampler.steps=4")
    before = pieces(run)
    evaluate(run, *ask, "sampler.steps=5", "name=five")
    (place,) = kept(run, "gamma")
    times = [torch.load(path, weights_only=True)["times"].tolist() for path in place.glob("*.pt")]
    assert sorted(times) == [[4, 8, 12, 16], [5, 10, 15, 20]]
    assert before.items() <= pieces(run).items()


def test_gamma_that_is_not_finite_is_refused(run, monkeypatch, capsys):
    sums, third = GammaAtTimes.sums, torch.tensor([1, 1, torch.nan, 1])
    monkeypatch.setattr(GammaAtTimes, "sums", lambda *arguments: sums(*arguments) * third)
    with pytest.raises(SystemExit) as ended:
        evaluate(run, "variance=analytic", "sampler=ddim", "sampler.steps=4", "nll.chain=sampler")
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert all(word in told for word in ("variance=analytic", "Γ", "t = 15"))


def test_another_checkpoint_takes_nothing_of_this_one(unbroken, run, monkeypatch):
    evaluate(run, start=BROKEN)
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for value in checkpoint["ema/0.9999"].values():
        value.mul_(1.5)
    torch.save(checkpoint, path)
    counted = Counted(monkeypatch)
    assert evaluate(run, start=BROKEN).value("bound_4") != unbroken[1].value("bound_4")
    assert counted.n == CALLS


def test_work_is_known_by_what_it_depends_on_and_the_folder_says_so(tmp_path):
    store = Store(tmp_path)
    one, same, other = (store.place("kind", about) for about in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3}))
    assert one == same != other
    assert '"b": 3' in (other / "about.json").read_text()


def test_no_half_written_file_takes_the_place_of_a_piece(tmp_path, monkeypatch):
    def full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    store, arguments = Store(tmp_path), ("kind", {}, 4, 2, lambda start, stop: {"x": torch.arange(start, stop)}, "told")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"could not be written"):
        store.pieces(*arguments)
    monkeypatch.undo()
    assert [path.name for path in store.place("kind", {}).iterdir()] == ["about.json"]
    assert [piece["x"].tolist() for piece in store.pieces(*arguments)] == [[0, 1], [2, 3]]
