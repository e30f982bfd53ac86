"""A run as files for other code: diffusers opens them and draws the same images, and what is read back is equal to the bit."""

import json
import re
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from exporting import NET, OTHERS, convert, equal, exported, imported, made, randomise, weights
from safetensors.torch import load_file
from torch import Tensor

import ddpm_lab
from ddpm_lab.config.exported import drawn, schedule_of
from ddpm_lab.core import rng
from ddpm_lab.core import schedule as schedules
from ddpm_lab.core.heun import Heun
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import write_weights
from ddpm_lab.interop.outgoing import counted_from_0, unet2d
from ddpm_lab.interop.recognise import LAYOUTS
from ddpm_lab.interop.scheduler import scheduler
from ddpm_lab.nets.unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("own") / "run", *NET)


@pytest.fixture(scope="module")
def ddim_file(tmp_path_factory) -> Path:
    """A network in the layout of github.com/ermongroup/ddim."""
    net = UNet(1, 1, 8, 32, (1, 2), 1, (4,), time_offset=-1.0)
    path = tmp_path_factory.mktemp("ddim") / "ema.ckpt"
    torch.save(write_weights(LAYOUTS["ddim"], randomise(net, 3)), path)
    return path


@pytest.fixture(scope="module")
def foreign(ddim_file) -> Path:
    return imported(ddim_file, "size=8", "data=digits")


@pytest.fixture
def run(request, own, foreign) -> Path:
    return {"own": own, "foreign": foreign}[request.param]


def drawn_by_diffusers(folder: Path, x: Tensor) -> Tensor:
    pipe = DDPMPipeline.from_pretrained(folder)
    steps = DDIMScheduler.from_config(pipe.scheduler.config)
    steps.set_timesteps(50)
    with torch.no_grad():
        for t in steps.timesteps:
            x = steps.step(pipe.unet(x, t).sample, t, x, eta=0.0, use_clipped_model_output=True).prev_sample
    return x


@pytest.mark.parametrize("run", ["own", pytest.param("foreign", marks=pytest.mark.slow)], indirect=True)
def test_diffusers_draws_the_same_images(run, tmp_path):
    opened = ddpm_lab.load(run)
    out = tmp_path / "out"
    assert convert(tmp_path, f"ckpt={run}", "to=diffusers", f"out={out}")[0] == 0
    ours = opened.sample(4, DDIM(50), seed=5)
    theirs = drawn_by_diffusers(out, rng.normal(opened.model.shape, 5, "sampling", 0, 0, 4).float())
    assert (ours.abs() < 1).float().mean() > 0.1
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


SAMPLERS = [
    (DDIM(10), ["DDIMPipeline", "num_inference_steps=10", "eta=0.0"]),
    (DDIM(10, spacing="leading"), ["DDIMPipeline", "spacing=leading"]),
    (DDIM(5, eta=0.5), ["eta=0.5, use_clipped_model_output=True"]),
    (DDIM(10, spacing="linspace"), ["leads 10 times down"]),
    (DDIM(10, spacing="quadratic"), ["others there: timestep_spacing=trailing"]),
    (DDIM(30), ["others there"]),
    (Ancestral(10), ["DDPMPipeline", "num_inference_steps=100", "Ancestral, steps=10"]),
    (Ancestral(10, spacing="leading"), ["num_inference_steps=10"]),
    (Ancestral(30, spacing="linspace"), ["num_inference_steps=30"]),
    (Heun(5), ["Heun", "ancestral samples", "others there: timestep_spacing=trailing"]),
    (Ancestral(max_last_noise=2.0), ["no max_last_noise"]),
]


@pytest.mark.parametrize(("sampler", "named"), SAMPLERS)
def test_the_runs_sampler_is_told_and_diffusers_visits_its_times(sampler, named):
    steps = scheduler({"beta_schedule": "linear"}, 100, "eps", "beta", True, sampler.spacing)
    use, notes = drawn(sampler, 100, steps)
    told = " ".join([*use.values(), *notes])
    assert [part for part in named if part not in told] == []
    theirs = DDIMScheduler.from_config(steps)
    theirs.set_timesteps(sampler.steps or 100)
    times = [int(step.t) for step in sampler.chain(schedules.linear(100)).steps_down()]
    assert ((theirs.timesteps + 1).tolist() == times) is ("others there" not in told)


def test_what_the_card_tells_to_type_draws_the_images_of_the_runs_sampler(tmp_path):
    run = made(tmp_path / "run", *NET, "sampler=ddim", "sampler.steps=10", "sampler.spacing=leading")
    opened, out = ddpm_lab.load(run), exported(run, "diffusers")
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    typed = code[1].replace("PATH OF THIS FOLDER", str(out)).replace("batch_size=16", "batch_size=4, output_type='pt'")
    x = rng.normal(opened.model.shape, 5, "sampling", 0, 0, 4).float()
    with patch("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: x):
        exec(typed, names := {})
    theirs, ours = names["images"], opened.sample(4, seed=5).clamp(-1, 1) / 2 + 0.5
    if not isinstance(theirs, torch.Tensor):  # diffusers 0.36 gives arrays, channels last
        theirs = torch.from_numpy(theirs).movedim(-1, 1)
    assert ((ours > 0) & (ours < 1)).float().mean() > 0.1
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", ["sin_cos", "cos_sin"])
@pytest.mark.parametrize(("offset", "scale", "channels"), [(0.0, 1.0, 8), (2.5, 0.25, 8), (0.0, 1.0, 9)])
def test_a_rotation_of_the_first_layer_counts_t_from_0(offset, scale, channels, order):
    of_time = {"time_offset": offset, "time_scale": scale, "time_order": order}
    net = randomise(UNet(1, 1, 4, channels, (1, 1), 1, (), 1, **of_time), 0).double().eval()
    x, t = torch.randn(50, 1, 4, 4, dtype=torch.float64), torch.linspace(1, 1000, 50).round()
    other = counted_from_0(net)
    assert other.sinusoids.offset == -1
    torch.testing.assert_close(other(x, t), net(x, t), rtol=0, atol=1e-12)


def test_imported_weights_come_back_equal_to_the_bit(foreign, tmp_path):
    out = tmp_path / "out"
    assert convert(tmp_path, f"ckpt={foreign}", "to=diffusers", f"out={out}")[0] == 0
    assert equal(weights(imported(out, "data=digits")), weights(foreign))
    card = (out / "README.md").read_text()
    assert f"layout: {ddpm_lab.load(foreign).imported}" in card
    assert not re.search("^(loss|timesteps|optim|ema|trainer|callbacks):|after 0|train.py", card, re.MULTILINE)


def test_a_run_comes_back_with_its_choices_and_the_rotated_weights(tmp_path):
    run = made(tmp_path / "run", *NET, *OTHERS)
    out = exported(run, "diffusers")
    unet, net = DDPMPipeline.from_pretrained(out).unet, ddpm_lab.load(run).net
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 20, 40])
    torch.testing.assert_close(unet(x, t - 1).sample, net(x, t), rtol=1e-5, atol=2e-5)
    again = imported(out, "data=digits")
    before, after = ddpm_lab.load(run), ddpm_lab.load(again)
    assert equal(after.net.state_dict(), counted_from_0(before.net).state_dict())
    for group in ("schedule", "prediction", "variance"):
        assert after.config[group] == before.config[group]
    assert after.config["sampler"].get("clip") == before.config["sampler"].get("clip")
    differ = {key for key, value in before.config["net"].items() if after.config["net"][key] != value}
    assert differ <= {"time_offset"}
    twice = exported(again, "diffusers")
    stem = "unet/diffusion_pytorch_model.safetensors"
    assert equal(load_file(out / stem), load_file(twice / stem))
    for name in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        assert (out / name).read_text() == (twice / name).read_text()


DEFAULTS = {"clip_sample_range", "rescale_betas_zero_snr", "steps_offset", "trained_betas"}
DEFAULTS |= {"dynamic_thresholding_ratio", "sample_max_value"}
"""Settings of a scheduler that are not written where they are its defaults."""


def test_a_folder_of_diffusers_goes_out_as_it_came_in(tmp_path):
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1}
    settings = {"attention_head_dim": 4, "norm_num_groups": 4, "downsample_padding": 0, "norm_eps": 1e-6, "freq_shift": 1}
    unet = randomise(UNet2DModel(**blocks, **sizes, **settings, flip_sin_to_cos=False), 4)
    steps = DDPMScheduler(50, beta_schedule="scaled_linear", variance_type="fixed_large", timestep_spacing="trailing")
    DDPMPipeline(unet, steps).save_pretrained(tmp_path / "theirs")
    config = tmp_path / "theirs" / "unet" / "config.json"
    written = json.loads(config.read_text())
    del written["resnet_time_scale_shift"]  # as of a version that had no such key
    config.write_text(json.dumps(written))
    out = exported(imported(tmp_path / "theirs", "data=digits"), "diffusers")
    again = DDPMPipeline.from_pretrained(out)
    assert equal(again.unet.state_dict(), unet.state_dict())
    for part in ("unet/config.json", "scheduler/scheduler_config.json"):
        theirs, ours = (json.loads((folder / part).read_text()) for folder in (tmp_path / "theirs", out))
        assert {key: value for key, value in theirs.items() if key[0] != "_" and ours.get(key, value) != value} == {}
        assert {key for key in theirs if key[0] != "_"} - ours.keys() <= DEFAULTS


FORMULAS = [("linear", {}), ("linear", {"T": 400, "rescale": True}), ("quadratic", {}), ("constant", {}), ("sigmoid_beta", {})]
FORMULAS += [("cosine", {}), ("cosine", {"T": 50}), ("zero_terminal_snr", {}), ("zero_terminal_snr", {"base": "quadratic"})]
TABLES = [
    ("warmup", {}),
    ("jsd", {}),
    ("sigmoid_beta", {"width": 4.0}),
    ("sigmoid_alpha_bar", {}),
    ("cosine", {"offset": 0.02}),
]
TABLES += [("cosine", {"max_beta": 0.9}), ("zero_terminal_snr", {"base": "sigmoid_beta"})]


@pytest.mark.parametrize(("name", "values", "known"), [*((*one, True) for one in FORMULAS), *((*one, False) for one in TABLES)])
def test_diffusers_is_told_the_schedule(name, values, known):
    target = f"ddpm_lab.core.schedule.{name}"
    schedule = getattr(schedules, name)(**values)
    told = schedule_of({"schedule": {"_target_": target, **values}}, schedule)
    assert ("beta_schedule" in told) is known
    theirs = DDPMScheduler(schedule.T, **told).alphas_cumprod.double()
    torch.testing.assert_close(theirs, schedule.alphas_bar[1:], rtol=2e-4, atol=1e-7)


REFUSED = [
    ({"time_scale": 0.25}, "net.time_scale=0.25"),
    ({"blocks": (1, 2)}, "net.blocks=[1, 2]"),
    ({"classes": 10}, "data.conditional=true"),
    ({"heads": 2, "attention": (8, 4)}, "net.heads=2"),
    ({"channels": 2}, "net.channels=2"),
]


@pytest.mark.parametrize(("changes", "named"), REFUSED)
def test_what_a_unet_of_diffusers_cannot_have_is_refused_by_name(changes, named):
    net = UNet(
        **{
            "in_channels": 1,
            "out_channels": 1,
            "size": 8,
            "channels": 8,
            "multipliers": (1, 2),
            "blocks": 1,
            "attention": (4,),
            "groups": 1,
            **changes,
        }
    )
    with pytest.raises(UserError, match=re.escape(named)):
        unet2d(net)


@pytest.mark.parametrize(
    ("words", "to", "named"),
    [
        (["prediction=mu", "loss=simple"], "diffusers", "prediction=mu"),
        (["prediction=edm", "loss=simple"], "diffusers", "prediction=edm"),
        (["variance=learned_diagonal", "loss=vlb"], "diffusers", "variance=learned_diagonal"),
        (["net=mlp", "experiment=gaussian_mixture"], "diffusers", "MLP"),
        ([], "openai", "net.norm_eps=1e-06"),
        ([], "onnx", "to=onnx"),
    ],
)
def test_what_other_code_cannot_have_leaves_no_folder(words, to, named, tmp_path):
    vectors = "net=mlp" in words
    run = made(tmp_path / "run", *(words if vectors else [*NET, *words]), shape=(2,) if vectors else (1, 8, 8))
    code, told = convert(tmp_path, f"ckpt={run}", f"to={to}", "out=out")
    assert code == 2
    assert named in told
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


LIKE_OPENAI = [*NET, "net.groups=32", "net.channels=32", "net.norm_eps=1e-5", "net.down_padding=around", "net.heads=2"]
LIKE_OPENAI += ["net.time_order=cos_sin", "net.time_shift=0", "variance=learned_range", "loss=hybrid", "schedule=cosine"]
LIKE_OPENAI += ["schedule.T=500", "net.time_scale=2", "net.scale_shift=true"]


@pytest.mark.slow
def test_openai_state_dicts_come_back_equal_to_the_bit(tmp_path):
    run = made(tmp_path / "run", *LIKE_OPENAI, "net.time_offset=-1", "data=cifar10", "net.attention=[16]", shape=(3, 32, 32))
    out = exported(run, "openai", "weights=raw")
    raw = ddpm_lab.load(run, "raw").net
    state = torch.load(out / "model.pt", weights_only=True)
    assert equal(state, write_weights(LAYOUTS["guided_diffusion"], raw))
    words = ["layout=guided_diffusion", "data=cifar10", "schedule=cosine", "schedule.T=500", "net.heads=2", "size=32"]
    again = imported(out / "model.pt", *words, "net.time_scale=2")
    assert equal(torch.load(exported(again, "openai") / "model.pt", weights_only=True), state)
    card = (out / "README.md").read_text()
    arguments = {"learn_sigma": True, "diffusion_steps": 500, "noise_schedule": "cosine", "num_heads": 2, "channel_mult": "1,2"}
    arguments |= {"rescale_timesteps": True, "use_scale_shift_norm": True, "attention_resolutions": "16", "num_channels": 32}
    assert all(f"--{name} {value} " in f"{card} ".replace("`", " ") for name, value in arguments.items())
