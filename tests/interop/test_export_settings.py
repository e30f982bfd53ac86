"""What an export writes and refuses, setting by setting, and what its README.md takes from a run folder."""

import os
import re
from types import SimpleNamespace

import pytest
from exporting import NET
from helpers import composed

from ddpm_lab.config import exported
from ddpm_lab.config.build import build_model
from ddpm_lab.config.unused import drop_unused
from ddpm_lab.errors import UserError
from ddpm_lab.files import write_bytes, write_json
from ddpm_lab.interop.card import numbers_of, picture_of
from ddpm_lab.interop.outgoing import openai_script, parameters_of
from ddpm_lab.interop.scheduler import scheduler
from ddpm_lab.models.portable import read_portable
from ddpm_lab.models.run import Run
from ddpm_lab.nets.unet import UNet

THEIRS = {"in_channels": 3, "out_channels": 3, "size": 32, "channels": 32, "multipliers": (1, 2, 2, 2), "blocks": 1}
THEIRS |= {"attention": (8,), "groups": 32, "norm_eps": 1e-5, "down_padding": "around", "heads": 2}
THEIRS |= {"time_order": "cos_sin", "time_shift": 0.0, "time_offset": -1.0}
SCRIPTS = [
    ({}, "improved-diffusion", {"num_heads": 2, "image_size": 32, "attention_resolutions": "8"}),
    ({"heads": 1}, "improved-diffusion", {"num_heads": 1, "rescale_timesteps": False, "use_scale_shift_norm": False}),
    (
        {"heads": 1, "head_width": 16, "attention": (32, 8)},
        "guided-diffusion",
        {"num_head_channels": 16, "channel_mult": "1,2,2,2"},
    ),
    ({"multipliers": (1, 2, 2)}, "guided-diffusion", {"num_heads": 2, "channel_mult": "1,2,2"}),
]
NOT_THEIRS = [
    ({"groups": 16}, "net.groups=16"),
    ({"down_padding": "after"}, "net.down_padding=after"),
    ({"norm_eps": 1e-6}, "net.norm_eps=1e-06"),
    ({"time_order": "sin_cos"}, "net.time_order=sin_cos"),
    ({"time_shift": 1.0}, "net.time_shift=1"),
    ({"time_width": 64}, "net.time_width=64"),
    ({"time_scale": 3.0}, "net.time_scale=3"),
    ({"in_channels": 1, "out_channels": 1}, "data of 1 channels"),
    ({"attention": ()}, "net.attention=[]"),
    ({"blocks": (1, 1, 2, 1)}, "net.blocks=[1, 1, 2, 1]"),
    ({"classes": 10}, "data.conditional=true"),
]


@pytest.mark.parametrize(("changes", "code", "arguments"), SCRIPTS)
def test_openais_scripts_are_told_the_network(changes, code, arguments):
    named, told = openai_script(UNet(**THEIRS | changes), 500)
    assert named == code
    assert arguments.items() <= told.items()


@pytest.mark.parametrize(("changes", "named"), NOT_THEIRS)
def test_what_openais_scripts_cannot_make_is_refused_by_name(changes, named):
    with pytest.raises(UserError, match=re.escape(f"to=openai: {named}")):
        openai_script(UNet(**THEIRS | changes), 500)


PARAMETERS = {"groups": (8, 16), "down_padding": ("around", "after"), "dropout": (0.0, 0.25), "scale_shift": (True, False)}
PARAMETERS |= {"norm_eps": (1e-5, 1e-3), "time_order": ("sin_cos", "cos_sin"), "time_width": (24, 64), "blocks": (1, 2)}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in PARAMETERS.items() for value in values])
def test_parameters_are_read_off_the_network(key, value):
    assert parameters_of(UNet(**THEIRS | {key: value}))[key] == value


RUN = [*NET, "net.channels=32", "net.groups=32", "net.multipliers=[1,2,2,2]", "net.attention=[8]", "net.norm_eps=1e-5"]
RUN += ["net.down_padding=around", "net.time_order=cos_sin", "net.time_shift=0", "schedule=cosine", "variance=beta"]


def run_of(*words: str, side: int = 32, counts: tuple[int, ...] | None = None) -> Run:
    cfg = composed(*RUN, *words)
    drop_unused(cfg)
    return Run(build_model(cfg, (3, side, side), 256, None, counts), "raw", 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["variance=beta"], ["learn_sigma False", "sigma_small False", "predict_xstart False", "noise_schedule cosine"]),
        (["variance=beta_tilde", "prediction=x0"], ["learn_sigma False", "sigma_small True", "predict_xstart True"]),
    ],
)
def test_openais_scripts_are_told_the_process(words, told):
    (note, *_) = exported.KINDS["openai"](run_of(*words)).notes
    assert [part for part in [*told, "diffusion_steps 100"] if f"--{part} " not in note.replace("`", " ")] == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["prediction=v"], "prediction=v"),
        (["variance=learned_diagonal", "loss=vlb"], "variance=learned_diagonal"),
        (["variance=beta_tilde", "net.multipliers=[1,2,2]"], "variance=beta_tilde"),
        (["schedule=quadratic"], "schedule"),
    ],
)
def test_what_openais_process_cannot_be_is_refused_by_name(words, named):
    with pytest.raises(UserError, match=f"to=openai: {named}"):
        exported.KINDS["openai"](run_of(*words))


@pytest.mark.parametrize("to", ["diffusers", "openai"])
def test_a_learned_schedule_is_refused_with_the_layout_that_takes_it(to):
    run = run_of("schedule=learned", "loss=vlb")
    with pytest.raises(UserError, match=f"to={to}: schedule=learned: .*γ.*to=safetensors"):
        exported.KINDS[to](run)
    exported.KINDS["safetensors"](run)


def test_a_head_is_refused_with_the_run_that_it_is_on(tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "located", lambda *_: (tmp_path / "last.ckpt", None))
    monkeypatch.setattr(exported, "load", lambda *_: SimpleNamespace(config={"base": "outputs/of/base"}))
    with pytest.raises(UserError, match="ckpt=outputs/of/base"):
        exported.export("x", "safetensors", None, None)


def test_the_counts_of_classes_go_with_a_conditional_network(tmp_path):
    counts = (3, 1, 2, *[1] * 7)
    exported.KINDS["safetensors"](run_of("data.conditional=true", side=8, counts=counts)).write(tmp_path)
    content = read_portable(tmp_path / "model.safetensors")
    assert (content["class_counts"], content["global_step"], content["shape"]) == ([*counts], 3, [3, 8, 8])


@pytest.mark.parametrize(("clip", "clamps", "ratio"), [(False, False, None), (True, True, None), (0.9, True, 0.9)])
def test_limits_of_x0_are_written(clip, clamps, ratio):
    steps = scheduler({}, 10, "eps", "beta", clip, "trailing")
    assert (steps["clip_sample"], steps["thresholding"]) == (clamps, ratio is not None)
    assert steps.get("dynamic_thresholding_ratio") == ratio


def test_numbers_of_an_evaluation_are_those_of_its_results_and_not_of_their_parts(tmp_path):
    results = [
        {"key": f"level {n}", "value": 1.0, "standard_error": None, "record": {"n": 4}, "level": n} for n in (0, 1, 0, 2)
    ]
    write_json(tmp_path / "eval" / "e" / "evaluation.json", {"arms": [{"results": results}]})
    write_bytes(tmp_path / "eval" / "damaged" / "evaluation.json", b"{")
    assert [number.key for number in numbers_of(tmp_path)] == ["level 0", "level 0"]


def test_the_newest_picture_is_taken(tmp_path):
    assert picture_of(tmp_path) is None
    names = ["samples/step_9.png", "eval/e/samples_0.png", "drawn/d/grid.png", "samples/step_10.png"]
    for newest in names:
        for name in names:
            write_bytes(tmp_path / name, b"")
            os.utime(tmp_path / name, (0, 100 if name == newest else 50))
        assert picture_of(tmp_path) == tmp_path / newest
