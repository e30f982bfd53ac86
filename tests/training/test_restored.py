"""A checkpoint whose training state somebody edited or damaged is refused by name before anything is written."""

import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import FEW_HELD_OUT, TINY, command_here
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.cli.evaluate import main as evaluate
from ddpm_lab.config.build import Built, build
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint, write_archive
from ddpm_lab.training.callbacks.progress import LossQuartiles
from ddpm_lab.training.fit import check_start, read_start
from ddpm_lab.training.restored import _check_weights

from .support import module, quiet

pytestmark = quiet
GONE = object()
NAN = float("nan")
VALUES = (GONE, None, "abc", [], {}, -1, NAN, 10**40, torch.full((2,), NAN), [1, 2, 3], {"x": 1})
OF_ADAM = ("optimizer_states", 0, "state", 5)
GROUP = ("optimizer_states", 0, "param_groups", 0)
LOOP = ("loops", "fit_loop")
BATCHES = (*LOOP, "epoch_loop.batch_progress")
SCHEDULE = ("lr_schedulers", 0)
ENTRIES: list[tuple[str | int, ...]] = [
    *(("optimizer_states",), OF_ADAM[:2], OF_ADAM[:3], OF_ADAM, (*OF_ADAM, "step"), (*OF_ADAM, "exp_avg"), GROUP[:3]),
    *((*GROUP, name) for name in ("lr", "params", "betas", "eps", "weight_decay")),
    *(LOOP[:1], LOOP, BATCHES, (*BATCHES, "total", "ready"), (*BATCHES, "current", "completed"), (*LOOP, "state_dict")),
    *((*LOOP, "epoch_progress"), (*LOOP, "epoch_loop.automatic_optimization.optim_progress")),
    *(("callbacks", name) for name in ("LossQuartiles", "Throughput")),
    *(("callbacks",), ("callbacks", "LossQuartiles", "sums"), ("callbacks", "Throughput", "images")),
    *(SCHEDULE[:1], SCHEDULE, (*SCHEDULE, "last_epoch"), (*SCHEDULE, "base_lrs")),
    *(("timesteps",), ("timesteps", "losses"), ("timesteps", "count"), ("ema/0.9999",), ("epoch",), ("processes",)),
    *(("Digits",), ("Digits", "sha256"), ("pytorch-lightning_version",)),
]


@pytest.fixture(scope="module")
def whole(run_of) -> Path:
    return run_of(*TINY, *FEW_HELD_OUT, "timesteps=importance")


@pytest.fixture(scope="module")
def content(whole) -> dict[str, Any]:
    return read_checkpoint(whole / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def built(whole, tmp_path_factory) -> Built:
    config = OmegaConf.load(whole / "config.yaml")
    assert isinstance(config, DictConfig)
    return build(config, tmp_path_factory.mktemp("built"))


def edited(content: dict[str, Any], entry: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy, but for what the entry does not lie in."""
    content = place = copy.copy(content)
    for name in entry[:-1]:
        place[name] = copy.copy(place[name])  # type: ignore[index]
        place = place[name]  # type: ignore[index]
    place.pop(entry[-1]) if value is GONE else place.__setitem__(entry[-1], value)  # type: ignore[arg-type]
    return content


def refusal(content: dict[str, Any], built: Built) -> str:
    with patch("ddpm_lab.models.checkpoint.read_archive", lambda path: content), pytest.raises(UserError) as error:
        check_start(read_start(Path("edited.ckpt"), False, built.module, built.trainer), *built)
    return str(error.value)


@pytest.mark.parametrize(("processes", "blocks"), [(1, 1), (3, 3), (3, 1)])
def test_sums_of_each_process_or_of_all_are_accepted(processes, blocks, content, built, tmp_path):
    state = content["callbacks"]["LossQuartiles"]["sums"]
    saved = edited(content, ("callbacks", "LossQuartiles", "sums"), torch.ones(2, 4 * blocks)) | {"processes": processes}
    with patch.dict(built.module.model.config["trainer"], {"other_world_size": True}):
        write_archive(saved, tmp_path / "saved.ckpt")
        check_start(read_start(tmp_path / "saved.ckpt", False, built.module, built.trainer), *built)
        wrong = edited(saved, ("callbacks", "LossQuartiles", "sums"), state.repeat(1, processes + 1))
        assert "callbacks.LossQuartiles.sums" in refusal(wrong, built)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_takes_its_own_sums_and_the_first_those_of_another_number(rank, monkeypatch):
    quartiles, sums = LossQuartiles(), torch.arange(16.0).reshape(2, 8)
    monkeypatch.setattr("ddpm_lab.ranks.rank", lambda: rank)
    for world, expected in ((2, sums[:, 4 * rank :][:, :4]), (3, (sums[:, :4] + sums[:, 4:]) * (rank == 0))):
        monkeypatch.setattr("ddpm_lab.ranks.world", lambda world=world: world)
        quartiles.load_state_dict({"sums": sums})
        assert torch.equal(quartiles._sums, expected)


def test_what_was_saved_is_accepted(content, built, tmp_path):
    write_archive(content, tmp_path / "same.ckpt")
    check_start(read_start(tmp_path / "same.ckpt", False, built.module, built.trainer), *built)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: ".".join(map(str, entry)))
def test_an_entry_of_another_form_is_refused_by_name(entry, content, built):
    for value in VALUES:
        told = refusal(edited(content, entry, value), built)
        assert "\n" not in told
        assert len(told) < 600
        assert str(entry[0]) in told or entry == ("optimizer_states",) or entry[0] == "Digits"


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ((*GROUP, "betas"), (0.5, 0.999)),
        ((*GROUP, "weight_decay"), 0.1),
        ((*GROUP, "lr"), 0.1),
        ((*SCHEDULE, "base_lrs"), [0.1]),
        ((*SCHEDULE, "last_epoch"), 1),
        ((*OF_ADAM, "step"), torch.tensor(3.0)),
        ((*BATCHES, "current", "ready"), 1),
        ((*LOOP, "state_dict"), {"combined_loader": [{"position": 1}]}),
    ],
)
def test_a_value_that_the_run_cannot_have_is_refused(entry, value, content, built):
    told = refusal(edited(content, entry, value), built)
    assert ".".join(map(str, entry)) in told


@pytest.fixture(scope="module")
def by_muon(run_of) -> Path:
    return run_of(*TINY, *FEW_HELD_OUT, "optim=muon", "optim.decay=cosine", "optim.warmup=1")


@pytest.fixture(scope="module")
def of_muon(by_muon, tmp_path_factory) -> tuple[dict[str, Any], Built]:
    config = OmegaConf.load(by_muon / "config.yaml")
    assert isinstance(config, DictConfig)
    return read_checkpoint(by_muon / "checkpoints" / "last.ckpt"), build(config, tmp_path_factory.mktemp("by_muon"))


def test_states_of_muon_and_adamw_are_accepted_as_saved_and_refused_by_name_as_edited(of_muon, tmp_path):
    content, built = of_muon
    write_archive(content, tmp_path / "same.ckpt")
    check_start(read_start(tmp_path / "same.ckpt", False, built.module, built.trainer), *built)
    states = ("optimizer_states", 0)
    groups, kept = (content["optimizer_states"][0][key] for key in ("param_groups", "state"))
    last, momentum = groups[1]["params"][-1], kept[0]["momentum_buffer"]
    for entry, value in [
        ((*states, "state", 1, "momentum_buffer"), GONE),
        ((*states, "state", 1, "momentum_buffer"), torch.full_like(kept[1]["momentum_buffer"], NAN)),
        ((*states, "state", 0, "momentum_buffer"), momentum.T if momentum.shape[0] != momentum.shape[1] else momentum[1:]),
        ((*states, "state", last, "exp_avg"), GONE),
        ((*states, "state", 0), GONE),
        ((*states, "param_groups", 0, "momentum"), 0.5),
        ((*states, "param_groups", 0, "adjust_lr_fn"), "original"),
        ((*states, "param_groups", 0, "lr"), 0.1),
        ((*states, "param_groups", 1, "lr"), 0.1),
        ((*SCHEDULE, "base_lrs"), [0.1, 0.001]),
    ]:
        told, name = refusal(edited(content, entry, value), built), ".".join(map(str, entry[:4]))
        assert name in told or (entry[-1] == 0 and ".".join(map(str, entry[:3])) in told), told


@pytest.mark.parametrize("state", ["state_dict", "ema/0.9999"])
def test_weights_that_are_not_finite_are_refused(state, content, built):
    name = next(iter(content[state]))
    told = refusal(edited(content, (state, name), torch.full_like(content[state][name], NAN)), built)
    assert f"{state}.{name}" in told


def test_nothing_is_written_of_a_run_that_is_refused(content, whole, tmp_path):
    write_archive(edited(content, (*OF_ADAM, "exp_avg"), None), tmp_path / "edited.ckpt")
    done = command_here(f"resume={tmp_path / 'edited.ckpt'}", "trainer.max_steps=3", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("name", "value", "true"), [("shape", [1, 16, 8], "[1, 8, 8]"), ("levels", 200, "17")])
def test_a_shape_or_levels_of_other_data_are_refused_by_evaluation(name, value, true, content, tmp_path, capsys, monkeypatch):
    write_archive(content | {name: value}, path := tmp_path / "edited.ckpt")
    monkeypatch.setattr("sys.argv", ["evaluate.py", f"ckpt={path}", "quality.n=0"])
    with pytest.raises(SystemExit) as ended:
        evaluate()
    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    assert all(word in told for word in (str(path), f"{name}={value}", true))


def test_a_mask_with_infinities_is_no_damage(tmp_path):
    model = module()
    mask = torch.full((2, 2), -torch.inf).triu(1)
    model.model.net.register_buffer("mask", mask)
    _check_weights(model.model.net.state_dict(), model.model.net, "state_dict")
    with pytest.raises(ValueError, match=r"state_dict\.mask"):
        _check_weights(model.model.net.state_dict() | {"mask": mask[:1]}, model.model.net, "state_dict")


@pytest.mark.parametrize("limit", ["+trainer.overfit_batches=2", "+trainer.limit_train_batches=3"])
def test_a_run_of_limited_batches_goes_on(limit, tmp_path):
    words = [*TINY, *FEW_HELD_OUT, limit, "run.name=limited"]
    assert command_here(*words, cwd=tmp_path).returncode == 0
    done = command_here("resume=outputs/smoke/limited", "trainer.max_steps=6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
