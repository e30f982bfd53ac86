"""Speed as ratios to diffusers in a plain loop: python benchmarks/speed.py [network] [sampling] [outside] [data] [overhead]

Needs the extra `test` (diffusers). Quiet machine, please: ratios are taken in turns, but a busy machine still blurs them.
"""

import copy
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from network import diffusion, network, our_module, sampling
from timing import compare, show
from torch import Tensor, nn

from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.data.memory import InMemory, TrainStream
from ddpm_lab.training.callbacks.progress import LossQuartiles, Throughput
from ddpm_lab.training.csv_logger import CsvLogger
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.trainer import make


class Images(InMemory):
    """Uniform noise in memory."""

    def __init__(self, n: int, shape: tuple[int, ...], batch_size: int) -> None:
        super().__init__(batch_size, flip=True)
        self.n, self.size_of = n, shape

    def load(self) -> tuple[Tensor, Tensor]:
        return torch.randint(256, (self.n, *self.size_of), dtype=torch.uint8), torch.zeros(2, *self.size_of, dtype=torch.uint8)


def outside() -> None:
    """One step of a sampler around a network that costs nothing."""
    from diffusers import DDIMScheduler, DDPMScheduler

    model = diffusion()
    chain = model.schedule.chain()
    theirs = {"DDPM": DDPMScheduler(1000), "DDIM": DDIMScheduler(1000)}
    theirs["DDIM"].set_timesteps(1000)
    for n in (16, 256):
        x = torch.randn(n, 3, 32, 32)
        out = torch.randn_like(x)
        denoise = model.denoiser(lambda x, t, out=out: out, chain, clip=True)
        for name, sampler in {"DDPM": Ancestral(), "DDIM": DDIM(steps=None)}.items():
            draws = sampler.draws_noise

            def ours(sampler: Any = sampler, x: Tensor = x, denoise: Any = denoise, draws: bool = draws) -> object:
                return sampler.step(denoise, x, chain[500], torch.randn_like(x) if draws else None, None)

            def reference(scheduler: Any = theirs[name], x: Tensor = x, out: Tensor = out) -> object:
                return scheduler.step(out, 499, x)

            ways = {f"diffusers {name}Scheduler.step": reference, f"ours, {type(sampler).__name__}": ours}
            with torch.inference_mode():
                show(f"Outside the network, {name}, batch {n}", compare(ways, rounds=30, calls=10), "µs", 1e6)


# --- data and framework ------------------------------------------------------------------------------------------------------


def data() -> None:
    """Batches of 128 from 50,000 images of CIFAR-10's size: shuffled, flipped, scaled."""
    from PIL import Image

    raw, size = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8), 128
    stream = TrainStream(raw, 256, size, 10**9, seed=0, flip=True)
    pictures, ours, order = raw.permute(0, 2, 3, 1).numpy(), iter(stream), torch.randperm(len(raw))

    def one_by_one() -> Tensor:
        batch = []
        for i in order[:size].tolist():
            picture = Image.fromarray(pictures[i])
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 2 else picture
            batch.append(torch.frombuffer(picture.tobytes(), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1) / 127.5 - 1)
        return torch.stack(batch)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # frombuffer: not writable
        rows = compare({"image by image through PIL": one_by_one, "ours": lambda: next(ours)}, rounds=20, calls=20)
    show("Data, batches of 128 of 32×32×3, one process", rows, "ms", 1e3)
    print("\nimages/s: " + ", ".join(f"{row.name} {size / row.best_s:,.0f}" for row in rows))


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.weight * x


def overhead(steps: int = 3000) -> None:
    """What a step costs beyond the same work in a bare loop, with bar and metrics.csv on."""
    shape, size = (1, 8, 8), 8
    extra = []
    for _ in range(3):
        net = OneWeight()
        bare = our_module(copy.deepcopy(net), shape)
        stream = iter(TrainStream(*_raw(shape), size, steps, 0, True))
        optimizer = bare.optim.configure(bare._parameters_list)["optimizer"]
        average, weights = [p.detach().clone() for p in bare._parameters_list], [p.data for p in bare._parameters_list]
        start = time.perf_counter()
        for i, batch in enumerate(stream):
            loss = bare.training_step(batch, i)
            optimizer.zero_grad()
            loss.backward()
            bare.optim.clip_gradients(bare._parameters_list)
            optimizer.step()
            torch._foreach_lerp_(average, weights, 1e-4)
        loop = time.perf_counter() - start
        extra.append((_lightning(our_module(net, shape), shape, size, steps) - loop) / steps * 1e6)
        print(f"bare loop {loop / steps * 1e6:.0f} µs/step, with everything {loop / steps * 1e6 + extra[-1]:.0f}", flush=True)
    print(f"\n### Framework overhead per step, bar and metrics.csv on\n\n{min(extra):.0f} µs (best of {len(extra)} runs)")


def _raw(shape: tuple[int, ...]) -> tuple[Tensor, int]:
    return torch.randint(256, (1000, *shape), dtype=torch.uint8), 256


def _lightning(module: TrainingModule, shape: tuple[int, ...], size: int, steps: int) -> float:
    images = Images(1000, shape, size)
    images.seed, images.steps = 0, steps
    with tempfile.TemporaryDirectory() as folder:
        speed = Throughput()
        trainer = make(
            max_steps=steps,
            validate_every=10**6,
            channels_last=False,
            module=module,
            logger=CsvLogger(folder),
            callbacks=[LossQuartiles(), speed, EMA(0.9999, ramp=False)],
            run_dir=Path(folder),
        )
        trainer.fit(module, datamodule=images)
    return speed.seconds


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    parts: dict[str, Callable[[], None]] = {
        "network": network,
        "sampling": sampling,
        "outside": outside,
        "data": data,
        "overhead": overhead,
    }
    if unknown := set(sys.argv[1:]) - parts.keys():
        sys.exit(f"{', '.join(unknown)}: no such part; there are {', '.join(parts)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in sys.argv[1:] or parts:
        parts[name]()
