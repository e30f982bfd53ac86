"""Options of a user's own: what is wrong with a file or a signature is refused by name, and what is right works."""

import pytest

from ddpm_lab.config.instantiate import permit
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError

SOURCE = """
from typing import Annotated, Any
import torch
from annotated_types import Ge
from ddpm_lab.core.loss import Simple
from ddpm_lab.core.schedule import cosine as made
from ddpm_lab.domains import OpenUnit, PositiveInt, checked

def good(T: PositiveInt = 1000, slope: OpenUnit = 0.5): return made(T)
def untyped(T): return made(T)
def opaque(T: torch.Tensor = None): return made(10)
def anything(T: Any = 5): return made(10)
def unresolved(T: "Nothing" = 5): return made(10)
def crooked(T: Annotated[int, Ge("a")] = 5): return made(10)
def contradictory(T: PositiveInt = 0): return made(10)
def needy(T: PositiveInt, slope: float): return made(T)
def swallowing(T: PositiveInt = 5, **rest): return made(T)
def listing(T: PositiveInt = 5): return [T]
def refusing(T: PositiveInt = 5): raise ValueError("T is odd")
def failing(T: PositiveInt = 5): return 1 / 0
thing = 3
class Mine(Simple): pass
"""
MALFORMED = {
    "a parameter without an annotation": ("_target_: own_code.untyped\nT: 5", "schedule.T", "untyped", "no annotation"),
    "an annotation that no yaml file can hold": ("_target_: own_code.opaque\nT: 5", "schedule.T", "Tensor"),
    "an annotation that says nothing": ("_target_: own_code.anything\nT: 5", "schedule.T", "Any"),
    "an annotation that cannot be resolved": ("_target_: own_code.unresolved\nT: 5", "own_code.unresolved", "Nothing"),
    "a bound of another type": ("_target_: own_code.crooked\nT: 5", "schedule.T", "no domain"),
    "a default outside its domain": ("_target_: own_code.contradictory\nT: 5", "contradictory", "T=0", "int >= 1"),
    "a value outside its domain": ("_target_: own_code.good\nT: 0", "schedule.T=0", "int >= 1"),
    "a value of another type": ("_target_: own_code.good\nT: '5'", "schedule.T=5", "int >= 1"),
    "a key without a parameter": ("_target_: own_code.good\nT: 5\nslop: 1", "schedule.slop", "schedule.slope?"),
    "a parameter without a key": ("_target_: own_code.needy\nT: 5", "schedule", "slope"),
    "a key that only **rest would take": ("_target_: own_code.swallowing\nT: 5\nother: 1", "schedule.other", "It has T"),
    "a nested target": ("_target_: own_code.good\nT: {_target_: os.getpid}", "schedule.T", "int >= 1"),
    "arguments of Hydra": ("_target_: own_code.good\n_args_: [5]", "schedule._args_"),
    "no target": ("T: 5", "schedule=mine", "_target_"),
    "no keys at all": ("# nothing", "schedule=mine"),
    "a target that is no text": ("_target_: 5\nT: 5", "schedule", "_target_"),
    "a target that is not there": ("_target_: own_code.nothing\nT: 5", "schedule._target_=own_code.nothing"),
    "a module that is not there": ("_target_: no_such_code.f\nT: 5", "schedule._target_=no_such_code.f", "no_such_code"),
    "a module that cannot be imported": ("_target_: broken_code.f\nT: 5", "schedule._target_=broken_code.f", "RuntimeError"),
    "a thing that cannot be called": ("_target_: own_code.thing\nT: 5", "schedule._target_=own_code.thing"),
    "an option of another group": ("_target_: ddpm_lab.core.loss.Simple", "ddpm_lab.core.loss.Simple", "schedule", "loss"),
    "code for another group": ("_target_: own_code.Mine", "schedule", "Mine", "NoiseSchedule"),
    "a function that makes something else": ("_target_: own_code.listing\nT: 5", "schedule", "list", "NoiseSchedule"),
    "a constructor that refuses": ("_target_: own_code.refusing\nT: 5", "schedule", "T is odd"),
    "a constructor that fails": ("_target_: own_code.failing\nT: 5", "schedule: own_code.failing failed: ZeroDivisionError"),
    "a list": ("- 1\n- 2", "schedule/mine.yaml", "list"),
    "no yaml": ("_target_: [", "schedule/mine.yaml", "YAML"),
    "no text": (b"\xff\xfe\x00", "schedule/mine.yaml"),
    "a circle": ("defaults: [mine, _self_]\n_target_: own_code.good\nT: 5", "schedule=mine", "mine -> mine"),
    "a longer circle": ("defaults: [other, _self_]\n_target_: own_code.good\nT: 5", "mine -> other -> mine"),
    "a parent that is not there": ("defaults: [nothing, _self_]\n_target_: own_code.good\nT: 5", "schedule=nothing"),
    "a defaults list that is none": ("defaults: linear\n_target_: own_code.good\nT: 5", "schedule/mine.yaml", "defaults"),
}  # fmt: skip


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes FOLDER/schedule/mine.yaml, and returns the flag."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_code.py").write_text(SOURCE)
    (tmp_path / "code" / "broken_code.py").write_text("raise RuntimeError('at import')\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, place: str = "schedule/mine") -> str:
        path = tmp_path / "conf" / f"{place}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"--config-dir={tmp_path / 'conf'}"

    yield write
    permit([])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "conf"]


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("flags", [[], ["-m", "seed=1,2"]], ids=["run", "sweep"])
def test_what_is_malformed_is_refused_by_name(case, flags, own):
    text, *names = MALFORMED[case]
    own("defaults: [mine, _self_]\n", "schedule/other")
    with pytest.raises(UserError) as refusal:
        preflight([own(text), *flags, "schedule=mine"])
    message = str(refusal.value)
    assert [name for name in names if name not in message] == [], message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["hidden: 3", "_target_: null\nhidden: 3"])
def test_a_model_that_names_nothing_is_refused(text, own):
    flag = own(text, "model/mine")
    with pytest.raises(UserError, match=r"^model: no _target_"):
        preflight([flag, "model=mine"])


def test_what_is_right_works_and_may_have_defaults_of_its_own(own):
    flag = own("# steep\n_target_: own_code.good\nT: 7  # steps\nslope: 0.25\n")
    (arm,) = preflight([flag, "schedule=mine", "schedule.slope=0.75", "sampler.steps=7"])
    assert (arm.config.schedule.T, arm.config.schedule.slope) == (7, 0.75)
    with pytest.raises(UserError, match=r"^schedule\.T=0: allowed is int >= 1 \(steps\)"):
        preflight([flag, "schedule=mine", "schedule.T=0"])


def test_a_malformed_file_that_is_not_chosen_is_in_nobodys_way(own):
    assert len(preflight([own("_target_: own_code.untyped\nT: 5"), "schedule=cosine"])) == 1


@pytest.mark.parametrize(
    ("place", "text", "word"),
    [
        ("optim/torch_adamw", "_target_: torch.optim.AdamW\nlr: 0.001\nweight_decay: 0.1\n", "optim.weight_decay=0.2"),
        ("loss/mine", "_target_: own_code.Mine\n", "loss=mine"),
        ("callbacks/stopping", "defaults: [default, _self_]\nstopping:\n  _target_: "
         "lightning.pytorch.callbacks.EarlyStopping\n  monitor: val/bound_bpd\n  patience: 2\n",
         "callbacks.stopping.patience=3"),
        ("logger/plain", "_target_: lightning.pytorch.loggers.CSVLogger\nsave_dir: logs\n", "logger.save_dir=elsewhere"),
    ],
)  # fmt: skip
def test_classes_of_torch_and_lightning_and_code_of_ones_own_are_options(place, text, word, own):
    group, _, option = place.partition("/")
    words = ["experiment=none", f"{group}={option}", *([word] if word != f"{group}={option}" else [])]
    assert len(preflight([own(text, place), *words])) == 1
    with pytest.raises(UserError):
        preflight([own(text, place), *words, f"{group}.nothing=1"])


def test_values_for_classes_of_torch_are_checked(own):
    flag = own("_target_: torch.optim.AdamW\nlr: 0.001\nbetas: [0.9, 0.99]\n", "optim/torch_adamw")
    with pytest.raises(UserError, match=r"^optim\.lr=fast: allowed is float"):
        preflight([flag, "~experiment", "optim=torch_adamw", "optim.lr=fast"])
    with pytest.raises(UserError, match=r"^optim\.betas=0\.5: allowed is list of 2 float"):
        preflight([flag, "~experiment", "optim=torch_adamw", "optim.betas=0.5"])


def test_an_experiment_of_ones_own_leads_in_no_circle(own):
    flag = own("# @package _global_\ndefaults: [e, _self_]\n", "experiment/e")
    with pytest.raises(UserError, match="e -> e"):
        preflight([flag, "experiment=e"])
