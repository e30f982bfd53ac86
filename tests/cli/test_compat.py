"""Combinations, on a made-up conf/ and package: new options take part without an edit of compat.py."""

import sys

import pytest
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.compat import check_compatible, resolve_auto
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError

SOURCE = """
class Simple:
    trains_variance = False
    auto_variance = "fixed"
class VLB:
    trains_variance = True
    auto_variance = "fixed"
class Hybrid:
    trains_variance = True
    needs_learned_variance = True
    auto_variance = "learned"
class Own: ...
class Fixed:
    n_outputs = 1
class Learned:
    n_outputs = 2
class Conv:
    accepts = "images"
class Dense:
    accepts = "vectors"
class Pictures:
    gives = "images"
class Points:
    gives = "vectors"
class Values: ...
class Deep:
    accepts = "images"
class Taught:
    needs_labels = True
class Named(Pictures):
    classes = 10
class Unknown: ...
"""
OPTIONS = {
    "loss": {"simple": "Simple", "vlb": "VLB", "hybrid": "Hybrid", "own": "Own"},
    "variance": {"fixed": "Fixed", "learned": "Learned"},
    "net": {"conv": "Conv", "conv_small": "Conv", "dense": "Dense"},
    "data": {"pictures": "Pictures", "points": "Points", "named": "Named", "unknown": "Unknown"},
    "metrics": {"values": "Values", "deep": "Deep", "taught": "Taught"},
    "sampler": {"chain": "Chain"},
    "schedule": {"line": "line"},
}


@pytest.fixture
def dirs(tmp_path, monkeypatch):
    (tmp_path / "compat_pkg.py").write_text(SOURCE)
    for group, names in OPTIONS.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        for name, class_name in names.items():
            (tmp_path / "conf" / group / f"{name}.yaml").write_text(f"_target_: compat_pkg.{class_name}\nwidth: {len(name)}\n")
    (tmp_path / "conf" / "variance" / "auto.yaml").write_text("_target_: auto\n")
    monkeypatch.syspath_prepend(tmp_path)
    return [tmp_path / "conf"]


def config(dirs, steps=None, T=100, clip=None, **choices) -> DictConfig:
    chosen = {"loss": "simple", "variance": "fixed", "net": "conv", "data": "pictures", "metrics": "values"} | choices
    cfg = {group: OmegaConf.load(dirs[0] / group / f"{name}.yaml") for group, name in chosen.items()}
    return OmegaConf.create(cfg | {"sampler": {"_target_": "x.Y", "steps": steps, "clip": clip}, "schedule": {"T": T}})


@pytest.mark.parametrize("as_plain_dict", [True, False])
def test_an_untrained_variance_is_refused(dirs, as_plain_dict):
    cfg = config(dirs, loss="simple", variance="learned")
    with pytest.raises(UserError) as refusal:
        check_compatible(OmegaConf.to_container(cfg) if as_plain_dict else cfg, dirs)
    assert str(refusal.value) == (
        "loss=simple leaves the output of variance=learned untrained: use loss=hybrid or loss=vlb, or choose variance=fixed"
    )


def test_a_loss_with_nothing_to_train_is_refused(dirs):
    with pytest.raises(UserError, match=r"loss=hybrid .* variance=fixed .* choose variance=learned, or use loss=own or"):
        check_compatible(config(dirs, loss="hybrid", variance="fixed"), dirs)


def test_the_net_must_take_what_the_data_gives(dirs):
    with pytest.raises(UserError, match=r"^net=conv_small takes images, and data=points gives vectors: use net=dense$"):
        check_compatible(config(dirs, net="conv_small", data="points"), dirs)
    with pytest.raises(UserError, match=r"use net=conv or net=conv_small$"):
        check_compatible(config(dirs, net="dense"), dirs)


def test_the_extractor_must_take_what_the_data_gives(dirs):
    with pytest.raises(
        UserError, match=r"^metrics=deep takes images, and data=points gives vectors: use metrics=taught or metrics=values$"
    ):
        check_compatible(config(dirs, net="dense", data="points", metrics="deep"), dirs)
    check_compatible(config(dirs, net="dense", data="points"), dirs)
    check_compatible(config(dirs, metrics="deep"), dirs)


def test_an_extractor_that_is_trained_on_labels_needs_them(dirs):
    message = (
        r"^metrics=taught is trained on labels, and data=pictures has none: use metrics=deep or metrics=values, or choose "
    )
    with pytest.raises(UserError, match=message + r"data=named$"):
        check_compatible(config(dirs, metrics="taught"), dirs)
    check_compatible(config(dirs, metrics="taught", data="named"), dirs)
    check_compatible(config(dirs, metrics="taught", data="unknown"), dirs)  # said when it is built


def test_vectors_are_not_clipped(dirs):
    with pytest.raises(UserError, match=r"^sampler\.clip=true .* data=points .* use sampler\.clip=false$"):
        check_compatible(config(dirs, net="dense", data="points", clip=True), dirs)
    check_compatible(config(dirs, net="dense", data="points", clip=False), dirs)
    check_compatible(config(dirs, clip=True), dirs)


def test_there_are_no_more_steps_than_times(dirs):
    with pytest.raises(UserError, match=r"^sampler\.steps=101 is more than schedule\.T=100: allowed is 1 to 100, or"):
        check_compatible(config(dirs, steps=101), dirs)
    check_compatible(config(dirs, steps=100), dirs)


@pytest.mark.parametrize(("also", "good"), [([0.9, 0.9], False), ([0.99, 0.9], False), ([0.9], True), ([], True)])
def test_no_average_is_kept_twice(dirs, also, good):
    cfg = config(dirs)
    cfg.ema = {"decay": 0.99, "also": also}
    if good:
        check_compatible(cfg, dirs)
    else:
        with pytest.raises(
            UserError, match=rf"^ema\.also=\[{also[0]}, 0\.9\]: each decay once, and not ema\.decay=0\.99 again$"
        ):
            check_compatible(cfg, dirs)


SIGMOID = {"start": -3.0, "end": 3.0, "tau": 1.0, "max_beta": 0.999}
LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "rescale": True}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sigmoid_alpha_bar", SIGMOID | {"start": 3.0}, r"^schedule\.start=3\.0 schedule\.end=3\.0: .* a start below the end$"),
        ("sigmoid_alpha_bar", SIGMOID, None),
        ("linear", LINEAR | {"T": 19}, r"^schedule\.T=19 .* β would rise to 1\.053, .* use schedule\.T=20 or more, or"),
        ("linear", LINEAR | {"T": 2, "beta_start": 0.5}, r"β would rise to 250, .* use schedule\.T=500 or more"),
        ("linear", LINEAR | {"T": 20, "beta_end": 0.0199}, None),
        ("linear", LINEAR | {"T": 1}, None),
        ("linear", LINEAR | {"T": 19, "rescale": False}, None),
    ],
)
def test_what_the_schedule_would_refuse_is_known_before_it_is_made(dirs, name, values, message):
    from ddpm_lab.core import schedule

    values = {"T": 100} | values
    cfg = config(dirs)
    cfg.schedule = {"_target_": f"ddpm_lab.core.schedule.{name}"} | values
    if message is None:
        check_compatible(cfg, dirs)
        getattr(schedule, name)(**values)
    else:
        with pytest.raises(UserError, match=message):
            check_compatible(cfg, dirs)
        with pytest.raises(ValueError, match="β"):
            getattr(schedule, name)(**values)


@pytest.mark.parametrize(
    "choices",
    [{}, {"loss": "vlb", "variance": "learned"}, {"loss": "hybrid", "variance": "learned"}, {"loss": "vlb"}],
)
def test_what_works_is_not_refused(dirs, choices):
    check_compatible(config(dirs, **choices), dirs)


@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_a_loss_without_facts_is_the_users_own_affair(dirs, variance):
    check_compatible(config(dirs, loss="own", variance=variance), dirs)


@pytest.mark.parametrize(("loss", "variance"), [("simple", "fixed"), ("vlb", "fixed"), ("hybrid", "learned")])
def test_auto_is_what_the_loss_says(dirs, loss, variance):
    cfg = config(dirs, loss=loss, variance="auto")
    OmegaConf.set_struct(cfg, True)
    assert resolve_auto(cfg, dirs) == variance
    assert cfg.variance == OmegaConf.load(dirs[0] / "variance" / f"{variance}.yaml")
    assert resolve_auto(cfg, dirs) is None


def test_auto_needs_a_loss_that_says_so(dirs):
    with pytest.raises(UserError, match=r"^variance=auto: .* choose one of variance=fixed, variance=learned$"):
        resolve_auto(config(dirs, loss="own", variance="auto"), dirs)


def test_a_class_without_an_option_is_called_by_its_name(dirs):
    cfg = config(dirs, variance="learned")
    (dirs[0] / "loss" / "simple.yaml").unlink()
    with pytest.raises(UserError, match=r"^loss=Simple leaves"):
        check_compatible(cfg, dirs)


@pytest.mark.parametrize("logger", ["tensorboard", "all"])
def test_a_logger_whose_package_is_not_there_is_refused_before_a_sweep_starts(logger, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"^logger=tensorboard: the package tensorboard is not installed: pip install"):
        preflight(["-m", f"logger={logger}", "seed=1,2"])
