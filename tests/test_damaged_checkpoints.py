"""A checkpoint that somebody edited or a disk damaged is refused in one line, or gives the numbers that it always gave."""

import copy
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FEW_HELD_OUT, TINY

import ddpm_lab
from ddpm_lab.config.evaluated import completed, trained_by
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.store import is_whole, read
from ddpm_lab.models.checkpoint import read_checkpoint, write_archive

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own
GONE = object()
BOMB: dict[str, Any] = {"a": 1}
for _ in range(40):
    BOMB = {"a": BOMB, "b": BOMB}
CIRCLE: dict[str, Any] = {}
CIRCLE["a"] = CIRCLE
ANYTHING = (GONE, None, "abc", [], {}, -1, 17.5, True, 10**40, "${oc.env:HOME}", {1: 3}, torch.ones(2))
PLACES = [
    *("config", "config.seed", "config.data", "config.trainer", "config.callbacks", "config.schedule", "config.net"),
    *("shape", "levels", "global_step", "state_dict", "ema/0.9999", "processes"),
]
EDITS: dict[str, tuple[str, Any]] = {
    f"{place}={'gone' if value is GONE else ascii(value)[:20]}": (place, value)
    for place in PLACES
    for value in ANYTHING
    if not (place == "levels" and value is None)  # as vectors have it
} | {
    "a variance left to choose": ("config.variance", {"_target_": "auto"}),
    "a reference to nowhere": ("config.run", "${nope}"),
    "a reference that is nested": ("config.callbacks.samples.n", ["${oc.env:HOME}"]),
    "a bomb": ("config.run", BOMB),
    "a circle": ("config.run", CIRCLE),
    "too many steps": ("config.schedule.T", 10**12),
    "negative size": ("shape", [-1, 8, 8]),
    "many levels": ("levels", 10**6),
    "a weight less": ("state_dict", {}),
    "nested weights": ("ema/0.9999", {"a": {"b": torch.ones(2)}}),
}


@pytest.fixture(scope="module")
def whole(run_of) -> Path:
    return run_of(*TINY, *FEW_HELD_OUT)


@pytest.fixture(scope="module")
def content(whole) -> dict[str, Any]:
    return read_checkpoint(whole / "checkpoints" / "last.ckpt")


def edited(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    content = content | {"config": copy.deepcopy(content["config"])}
    *above, last = key.split(".") if key.startswith("config.") else [key]
    place = content
    for name in above:
        place = place[name]
    place.pop(last, None) if value is GONE else place.update({last: value})
    return content


def samples(path: Path, weights: str | None) -> torch.Tensor | None:
    """None where the checkpoint is refused in one line."""
    try:
        return ddpm_lab.load(path, weights).sample(2)
    except UserError as error:
        told = str(error)
    assert "\n" not in told
    assert len(told) < 600
    return None


def evaluated(path: Path) -> str:
    """What evaluate.py says before it measures."""
    dirs = [conf_dir() / "evaluate"]
    try:
        preflight([f"ckpt={path}"], dirs, lambda cfg, dirs, sweep: completed(cfg, dirs, {"ckpt"}, trained_by))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_checkpoint_is_refused_or_right(edit, whole, content, tmp_path):
    write_archive(edited(content, *EDITS[edit]), path := tmp_path / "edited.ckpt")
    key, value = EDITS[edit]
    weights = "raw" if key == "state_dict" else None
    found = samples(path, weights)
    if found is not None:  # without the average, training weights are those that a run has
        right = samples(whole, "raw" if (key, value) == ("ema/0.9999", GONE) else weights)
        torch.testing.assert_close(found, right, rtol=0, atol=1e-4)  # `trainer` says how to round
    assert "\n" not in evaluated(path)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("levels", 17.5, "levels=17.5"),
        ("global_step", "abc", "global_step=abc"),
        ("config.seed", "x", r"config\.seed=x"),
        ("config.run", "${oc.env:HOME}", r"config\.run=\$\{oc\.env:HOME\}"),
        ("shape", [-1, 8, 8], r"shape=\[-1, 8, 8\]"),
        ("ema/0.9999", None, r"ema/0\.9999=null"),
    ],
)
def test_the_field_is_named(key, value, named, content, tmp_path):
    write_archive(edited(content, key, value), tmp_path / "edited.ckpt")
    with pytest.raises(UserError, match=rf"edited\.ckpt.*{named}"):
        ddpm_lab.load(tmp_path / "edited.ckpt")


def test_an_average_that_is_not_finite_is_refused(content, tmp_path):
    state = {name: value.clone() for name, value in content["ema/0.9999"].items()}
    next(iter(state.values())).view(-1)[0] = float("nan")
    write_archive(edited(content, "ema/0.9999", state), tmp_path / "edited.ckpt")
    with pytest.raises(UserError, match=r"edited\.ckpt.*ema/0\.9999.*not finite"):
        ddpm_lab.load(tmp_path / "edited.ckpt")
    assert ddpm_lab.load(tmp_path / "edited.ckpt", "raw").step == 2


def flipped(path: Path, bit: int) -> Path:
    damaged = bytearray(path.read_bytes())
    damaged[bit // 8] ^= 1 << bit % 8
    path.with_name("flipped").write_bytes(damaged)
    return path.with_name("flipped")


def test_no_flipped_bit_changes_a_number(whole, content, tmp_path):
    path = Path(shutil.copy(whole / "checkpoints" / "last.ckpt", tmp_path))
    bits = 8 * path.stat().st_size
    chosen = [*random.Random(0).sample(range(bits), 100), *range(0, 400, 3), *range(bits - 1400, bits, 3)]
    for bit in chosen:
        try:
            found = read_checkpoint(flipped(path, bit))
        except UserError:
            continue
        for state in ("state_dict", "ema/0.9999"):
            assert all(torch.equal(value, content[state][name]) for name, value in found[state].items())


def test_no_flipped_bit_changes_a_piece_of_an_evaluation(tmp_path):
    write_archive({"x": torch.arange(100.0)}, piece := tmp_path / "piece.pt")
    for bit in range(0, 8 * piece.stat().st_size, 23):
        damaged = flipped(piece, bit)
        assert not is_whole(damaged) or torch.equal(read(damaged)["x"], torch.arange(100.0))


def test_a_copy_without_its_digest_loads(whole, content, tmp_path):
    torch.save(content, tmp_path / "own.ckpt")
    assert torch.equal(ddpm_lab.load(tmp_path / "own.ckpt").sample(1), ddpm_lab.load(whole).sample(1))


@pytest.mark.parametrize("given", ["", "."])
def test_a_folder_that_is_no_run_is_named(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        ddpm_lab.load(given)
