"""A training step and a sampling call, ours and of diffusers, in either precision and memory format: what speed.py compares."""

from collections.abc import Callable

import torch
from timing import Row, compare, show
from torch import Tensor, nn

from ddpm_lab.core.batch import Batch
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.loss import Simple
from ddpm_lab.core.prediction import Eps
from ddpm_lab.core.sampler import Ancestral
from ddpm_lab.core.schedule import linear
from ddpm_lab.core.timesteps import Uniform
from ddpm_lab.core.variance import BetaTilde
from ddpm_lab.models.diffusion import Diffusion, in_bf16
from ddpm_lab.nets.unet import UNet
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.optim import Adam

BATCH = 16


def diffusers_unet(dropout: float) -> nn.Module:
    from diffusers import UNet2DModel

    down = ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=down,
        up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        dropout=dropout,
    )


def diffusion() -> GaussianDiffusion:
    return GaussianDiffusion(linear(), Eps(), BetaTilde(), 256)


def our_module(net: nn.Module, shape: tuple[int, ...]) -> TrainingModule:
    process = diffusion()
    parts = (process.schedule, process.prediction, process.variance, Simple(), Uniform(), Ancestral())
    model = Diffusion(*parts, lambda **_: net, shape=shape, levels=process.levels, seed=0, config={})
    return TrainingModule(model, Adam())


def our_step(precision: torch.dtype | None, channels_last: bool) -> Callable[[], None]:
    """What Lightning runs in a step, without Lightning: training step, backward, clip and guard, Adam, average."""
    module = our_module(UNet(3, 3, 32), (3, 32, 32))
    if channels_last:
        module.model.net.to(memory_format=torch.channels_last)
    optimizer = module.optim.configure(module._parameters_list)["optimizer"]
    average, weights = [p.detach().clone() for p in module._parameters_list], [p.data for p in module._parameters_list]
    batch = Batch(torch.rand(BATCH, 3, 32, 32) * 2 - 1, 0, 0, BATCH)

    def step() -> None:
        with torch.autocast("cpu", precision, enabled=precision is not None):
            loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        module.optim.clip_gradients(module._parameters_list)
        optimizer.step()
        torch._foreach_lerp_(average, weights, 1e-4)

    return step


def their_step(precision: torch.dtype | None = None, channels_last: bool = False) -> Callable[[], None]:
    """The same in a plain loop around diffusers' network, scheduler and EMA."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    net, scheduler = diffusers_unet(dropout=0.1), DDPMScheduler(1000)
    if channels_last:
        net.to(memory_format=torch.channels_last)
    optimizer, ema = torch.optim.Adam(net.parameters(), lr=2e-4), EMAModel(net.parameters(), decay=0.9999)
    x0 = torch.rand(BATCH, 3, 32, 32) * 2 - 1

    def step() -> None:
        noise, t = torch.randn_like(x0), torch.randint(1000, (BATCH,))
        with torch.autocast("cpu", precision, enabled=precision is not None):
            out = net(scheduler.add_noise(x0, noise, t), t).sample
        loss = nn.functional.mse_loss(out.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        ema.step(net.parameters())

    return step


SIDES = ("diffusers", "ours")
FORMATS = {"contiguous": False, "channels_last": True}
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}


def network() -> None:
    """In each precision against diffusers in the same precision, each side in both memory formats."""
    for precision, dtype in PRECISIONS.items():
        ways: dict[str, Callable[[], object]] = {}
        for side, made in (("diffusers", their_step), ("ours", our_step)):
            ways |= {f"{side}, {name}": made(dtype, last) for name, last in FORMATS.items()}
        show_best(f"Training step in {precision}, 35.7M UNet, batch {BATCH}", compare(ways, rounds=7))


def show_best(title: str, rows: list[Row]) -> None:
    """The table, and the ratio of the fastest way of each side, whatever its memory format."""
    show(title, rows, "s", 1)
    theirs, ours = (min((row for row in rows if row.name.startswith(side)), key=lambda row: row.best_s) for side in SIDES)
    print(f"\nbest against best: {ours.name} is {theirs.best_s / ours.best_s:.2f} × as fast as {theirs.name}")


def sampling() -> None:
    """One call, network and step, in each precision against diffusers in the same precision."""
    for precision, dtype in PRECISIONS.items():
        ways: dict[str, Callable[[], object]] = {}
        for name, last in FORMATS.items():
            ways[f"diffusers, {name}"] = their_call(dtype, last)
            ways[f"ours, {name}"] = our_call(dtype, last)
        show_best(f"Sampling call in {precision}, 35.7M UNet, batch {BATCH}, ancestral", compare(ways, rounds=9))


def prepared(net: nn.Module, precision: torch.dtype | None, channels_last: bool) -> nn.Module:
    """In eval mode; for bf16 with weights that are cast once, as our sampling does, on both sides."""
    net = net.eval()
    if channels_last:
        net.to(memory_format=torch.channels_last)
    return net if precision is None else in_bf16(net)


def their_call(precision: torch.dtype | None, channels_last: bool) -> Callable[[], object]:
    from diffusers import DDPMScheduler

    net, scheduler = prepared(diffusers_unet(dropout=0.0), precision, channels_last), DDPMScheduler(1000)
    x = torch.randn(BATCH, 3, 32, 32)

    def call() -> object:
        with torch.autocast("cpu", precision, enabled=precision is not None):
            out = net(x, 499).sample
        return scheduler.step(out.float(), 499, x)

    return torch.inference_mode()(call)


def our_call(precision: torch.dtype | None, channels_last: bool) -> Callable[[], object]:
    net, model = prepared(UNet(3, 3, 32, dropout=0.0), precision, channels_last), diffusion()
    chain, x = model.schedule.chain(), torch.randn(BATCH, 3, 32, 32)

    def network(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast("cpu", precision, enabled=precision is not None):
            return net(x, t)

    denoise = model.denoiser(network, chain, clip=True)
    return torch.inference_mode()(lambda: Ancestral().step(denoise, x, chain[500], torch.randn_like(x), None))
