"""ε_θ and the diffusion process as one LightningModule: it trains and it samples; callbacks measure and show."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from ddpm_lab import ranks
from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.loss import Loss, total
from ddpm_lab.core.sampler import Sampled, Sampler
from ddpm_lab.core.timesteps import Timesteps
from ddpm_lab.data.memory import Batch
from ddpm_lab.training.guard import NonFiniteGuard
from ddpm_lab.training.optim import Adam
from ddpm_lab.training.trained import Trained


def reseed(seed: int, device: torch.device) -> None:
    """The generators that dropout draws from. (torch.manual_seed also queues a call for every kind of device that is not there,
    with the whole stack as text: most of a millisecond a step, and never freed.)"""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def in_bf16(net: nn.Module) -> nn.Module:
    """A copy whose weights are cast once, those of convolutions and matrix products: autocast would cast them at every call."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(torch.bfloat16)
    return net


class DiffusionModule(LightningModule):
    """Network, diffusion, loss, timesteps, optimiser and default sampler; `shape` is that of one datum.

    `config` is kept, as plain containers, in every checkpoint. `averages` holds the EMA networks, by checkpoint key; they are
    not submodules, so neither the optimiser nor the raw state dict sees them.
    """

    def __init__(
        self,
        net: nn.Module,
        diffusion: GaussianDiffusion,
        loss: Loss,
        timesteps: Timesteps,
        optim: Adam,
        sampler: Sampler,
        shape: tuple[int, ...],
        seed: int,
        config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.net = net
        self.diffusion, self.loss, self.timesteps = diffusion, loss, timesteps
        self.optim, self.sampler = optim, sampler
        self.shape, self.seed, self.config = shape, seed, config
        self.averages: dict[str, nn.Module] = {}
        self.trained: Trained | None = None
        self._pieces: list[Trained] = []  # of the batch that is under way
        self.grad_norm: Tensor | None = None
        self.validation_bpd: float | None = None
        self.sample_in_bf16 = False
        self.guard = NonFiniteGuard()
        self._parameters_list = [p for p in net.parameters() if p.requires_grad]

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes before and after every hook where it is, and torch looks at each attribute for what it registers:
        a tenth of a small network's step."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # --- training -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """DDPM Algorithm 1."""
        x0, rows = batch.x0, (batch.counter, batch.first, batch.first + len(batch.x0))
        u = rng.uniform(self.seed, "t", *rows)
        t, weight = self.timesteps(u, self.diffusion.schedule.T, batch.first, batch.size)
        eps = rng.normal(x0.shape[1:], self.seed, "noise", *rows).to(x0)
        noised = self.diffusion.noised(x0, eps, t)
        reseed(rng.address(self.seed, "dropout", batch.counter, batch.first), x0.device)
        out = self.net(noised.xt, t.to(x0.device)).to(x0.dtype)
        parts = self.loss.parts(self.diffusion, out, noised)
        per_example = total(parts)
        loss = (weight.to(x0) * per_example).mean()
        if self.timesteps.learns:
            self.timesteps.update(ranks.rows(t), ranks.rows(per_example.detach().cpu()))
        detached = {name: part.detach() for name, part in parts.items()}
        self.trained = Trained(batch.counter, t, weight, per_example.detach(), detached, loss.detach())
        self._pieces.append(self.trained)
        return loss

    def configure_optimizers(self) -> Any:
        return self.optim.configure(self._parameters_list)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """By global norm; and no update from a loss or a gradient that is not finite."""
        self.grad_norm = self.optim.clip_gradients(self._parameters_list)
        pieces, self._pieces = self._pieces, []
        self.guard.watch(self.global_step, pieces, self.grad_norm, optimizer)

    def on_fit_start(self) -> None:
        for logger in self.loggers:
            logger.log_hyperparams(self.config)

    def on_train_end(self) -> None:
        self.guard.read()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing here: `VLBTerms` measures each batch, so that what is measured is a callback's choice."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"config": self.config, "shape": list(self.shape), "levels": self.diffusion.levels}
        checkpoint |= {"timesteps": self.timesteps.state_dict(), "processes": ranks.world()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.timesteps.load_state_dict(checkpoint["timesteps"])

    # --- evaluation -----------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> str:
        """Which weights evaluation uses: the first EMA, "ema/<rate>", or "raw" where there is none."""
        return next(iter(self.averages), "raw")

    @property
    def eval_net(self) -> nn.Module:
        """The network with those weights, in eval mode."""
        return self.averages.get(self.weights, self.net).eval()

    def sample(self, n: int, sampler: Sampler | None = None, seed: int = 0, batch: int = 256) -> Tensor:
        """n samples, n × shape, in [−1, 1] for images. Sample i depends on (seed, i) alone; the training state is untouched.
        Several processes share the work, and all get all samples."""
        none = torch.empty(0, *self.shape, device=self.device)
        return ranks.rows(torch.cat([none, *self.sample_batches(n, sampler, seed, batch)]))

    def sample_batches(self, n: int, sampler: Sampler | None = None, seed: int = 0, batch: int = 256) -> Iterator[Tensor]:
        """This process's share of the same samples, in batches, each made when it is asked for."""
        first, end = ranks.share(n)
        for start in range(first, end, batch):
            for state in self.sample_states(start, min(start + batch, end), sampler, seed):
                final = state.x
            yield final

    def sample_states(self, start: int, stop: int, sampler: Sampler | None = None, seed: int = 0) -> Iterator[Sampled]:
        """The states of samples start..stop−1 on their way from noise to data."""

        def noise(t: int) -> Tensor:
            return rng.normal(self.shape, seed, "sampling", t, start, stop).to(self._parameters_list[0])

        def network(x: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.sample_in_bf16):
                return net(x, t)

        training, net = self.net.training, in_bf16(self.eval_net) if self.sample_in_bf16 else self.eval_net
        try:  # t = 0 is free for x_T: no step starts there
            yield from (sampler or self.sampler)(self.diffusion, network, noise(0), noise)
        finally:
            self.net.train(training)
