"""The end of a run: what its log says was written."""

import pytest
from helpers import trained

from ddpm_lab.errors import UserError
from ddpm_lab.training.final import written


def line(folder, name: str) -> str:
    (found,) = [line for line in written(folder) if line.split()[0].endswith(f"/{name}")]
    return found.split(maxsplit=1)[1]


def test_only_what_there_is_is_listed(tmp_path):
    for name in ("checkpoints/last.ckpt", "samples/filters_0000020.png", "samples/filters_0000040.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert "last" in line(tmp_path, "checkpoints")
    assert "best" not in line(tmp_path, "checkpoints")
    assert line(tmp_path, "samples").count("filters") == 1
    assert "progression" not in line(tmp_path, "samples")
    for name in ("checkpoints/best.ckpt", "checkpoints/step_0000020.ckpt", "samples/progression_0000040.png"):
        (tmp_path / name).touch()
    assert all(word in line(tmp_path, "checkpoints") for word in ("best", "last", "step"))
    assert "progression" in line(tmp_path, "samples")
    assert len(written(tmp_path)) == 2


def test_readings_of_one_datum_are_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"^validation data: .* at least 2, and there are 1"):
        trained(tmp_path / "run", "model=ae", "data.val_fraction=0.0003", "trainer.max_steps=2", "trainer.validate_every=2")
    assert not list((tmp_path / "run").glob("checkpoints/*"))
