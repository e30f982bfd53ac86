"""Speed as ratios to diffusers in a plain loop: python benchmarks/speed.py [PART …]; the parts are named at the end.

Needs the extra `test` (diffusers). Quiet machine, please: ratios are taken in turns, but a busy machine still blurs them.
"""

import logging
import os
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

from ddpm_lab.core.batch import Batch
from ddpm_lab.core.sampler import DDIM, Ancestral, draw
from ddpm_lab.data.memory import InMemory, TrainStream
from ddpm_lab.training.callbacks.progress import LossQuartiles, Throughput
from ddpm_lab.training.csv_logger import CsvLogger
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.trainer import make

TINY = (1, 8, 8)


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


def loop(steps: int = 50) -> None:
    """A whole sampling loop around a network that costs nothing, noise and starting noise included."""
    from diffusers import DDIMScheduler, DDPMScheduler

    model, like = diffusion(), torch.zeros(())
    pairs = {"DDPM": (DDPMScheduler(1000), Ancestral(steps)), "DDIM": (DDIMScheduler(1000), DDIM(steps))}
    for n in (16, 256):
        out = torch.randn(n, 3, 32, 32)
        for name, (scheduler, sampler) in pairs.items():
            scheduler.set_timesteps(steps)

            def reference(scheduler: Any = scheduler, out: Tensor = out) -> None:
                numbers = torch.Generator().manual_seed(0)
                x = torch.randn(out.shape, generator=numbers)
                for t in scheduler.timesteps:
                    x = scheduler.step(out, t, x, generator=numbers).prev_sample

            def ours(sampler: Any = sampler, out: Tensor = out) -> None:
                states = draw(sampler, model, lambda x, t: out, out.shape[1:], seed=0, start=0, stop=len(out), like=like)
                for _ in states:  # the last is the sample; to keep all would be another loop than the reference's
                    pass

            ways = {f"diffusers {name}Scheduler": reference, f"ours, {type(sampler).__name__}": ours}
            with torch.inference_mode():
                show(f"Sampling loop of {steps} steps, {name}, batch {n}", compare(ways, rounds=12), "ms", 1e3)


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


class Clocked(TrainStream):
    """Notes the CPU time of its thread at each batch: what else the machine runs lengthens it little."""

    def __init__(self, steps: int) -> None:
        super().__init__(torch.randint(256, (1000, *TINY), dtype=torch.uint8), 256, 8, steps, 0, True)
        self.seconds: list[float] = []

    def batch(self, counter: int, piece: int = 0) -> Batch:
        self.seconds.append(time.thread_time())
        return super().batch(counter, piece)

    def best(self, chunk: int = 50) -> float:
        """Microseconds of a step, in the chunk of steps that was fastest."""
        return min(b - a for a, b in zip(self.seconds, self.seconds[chunk:], strict=False)) / chunk * 1e6


def overhead(steps: int = 600, rounds: int = 8) -> None:
    """What a step costs beyond the same work in a bare loop, with bar and metrics.csv on (a row every 50 steps)."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # as without Lightning
    times = [(_bare(Clocked(steps)), _lightning(Clocked(steps))) for _ in range(rounds)]
    loop, everything = map(min, zip(*times, strict=True))
    print("\n### Framework overhead per step, bar and metrics.csv on\n")
    print(f"bare loop {loop:.0f} µs, beyond it {everything - loop:.0f} (CPU time, best chunk of 50 steps)")


def _bare(stream: Clocked) -> float:
    module = our_module(OneWeight(), TINY)
    optimizer = module.optim.configure(module._parameters_list)["optimizer"]
    average, weights = [p.detach().clone() for p in module._parameters_list], [p.data for p in module._parameters_list]
    for i, batch in enumerate(stream):
        loss = module.training_step(batch, i)
        optimizer.zero_grad()
        loss.backward()
        module.optim.clip_gradients(module._parameters_list)
        optimizer.step()
        torch._foreach_lerp_(average, weights, 1e-4)
    return stream.best()


def _lightning(stream: Clocked) -> float:
    images, module = Images(1000, TINY, 8), our_module(OneWeight(), TINY)
    images.train_dataloader = lambda: stream
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(
            max_steps=len(stream),
            validate_every=10**6,
            channels_last=False,
            module=module,
            logger=CsvLogger(folder),
            callbacks=[LossQuartiles(), Throughput(), EMA(0.9999, ramp=False)],
            run_dir=Path(folder),
        )
        trainer.fit(module, datamodule=images)
    return stream.best()


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    parts: dict[str, Callable[[], None]] = {
        "network": network,
        "sampling": sampling,
        "outside": outside,
        "loop": loop,
        "data": data,
        "overhead": overhead,
    }
    if unknown := set(sys.argv[1:]) - parts.keys():
        sys.exit(f"{', '.join(unknown)}: no such part; there are {', '.join(parts)}")
    torch.empty(2**23 - 2**20)  # 28 MB that are freed: from now on malloc keeps memory, as it does beside a network
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in sys.argv[1:] or parts:
        parts[name]()
