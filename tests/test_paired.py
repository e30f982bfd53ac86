"""Runs with one seed differ only by what is asked to differ: weights at the start, data, noise and times are shared."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers import TINY, composed, trained

from ddpm_lab.config.build import build_model
from ddpm_lab.core.diffusion import GaussianDiffusion

NO_OPS = [
    ([], ["schedule.T=10", "schedule.rescale=false"]),
    ([], ["loss=min_snr", "loss.gamma=1000000000"]),  # every SNR is less: the weight of L_simple
    ([], ["variance=beta"]),  # what auto is for this loss
    (["sampler=ddim", "sampler.steps=null"], ["sampler=ddim", "sampler.steps=10"]),  # of T = 10
    (["loss=vlb", "variance=beta_tilde"], ["loss=vlb", "variance=interpolated", "variance.fraction=0.0"]),
]


@pytest.mark.parametrize(("plain", "same"), NO_OPS, ids=lambda words: " ".join(words) or "plain")
def test_what_changes_nothing_gives_the_same_result_to_the_bit(plain, same, results):
    typed = {word.partition("=")[0] for word in same}
    base = [word for word in TINY if word.partition("=")[0] not in typed]
    assert results(*TINY, *plain) == results(*base, *same)


def weights(*overrides: str, shape: tuple[int, ...] = (1, 8, 8)) -> dict[str, torch.Tensor]:
    return build_model(composed(*overrides), shape, 17).net.state_dict()


@pytest.mark.parametrize(
    ("net", "shape"), [("unet_small", (1, 8, 8)), ("unet", (3, 32, 32)), ("mlp", (2,))], ids=["unet_small", "unet", "mlp"]
)
def test_networks_that_differ_in_the_variance_start_alike(net, shape):
    """All but the layer that has more outputs, which starts at zero in both."""
    narrow = {"unet": ["net.channels=32"], "mlp": ["sampler.clip=false"]}.get(net, [])
    small = ["experiment=none", f"net={net}", *narrow]
    one, two = (weights(*small, f"loss={loss}", shape=shape) for loss in ("simple", "hybrid"))
    assert one.keys() == two.keys()
    wider = [name for name in one if one[name].shape != two[name].shape]
    assert len(wider) == 2
    assert all(not state[name].any() for name in wider for state in (one, two))
    assert all(torch.equal(one[name], two[name]) for name in one if name not in wider)
    assert sum(state.std() > 0 for state in map(torch.Tensor.float, one.values()) if state.ndim > 1) > 5


def seen(folder: Path, *overrides: str) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Data, noise and times of each training step."""
    noised, steps = GaussianDiffusion.noised, []

    def noted(self, x0, eps, t, *chain):
        if torch.is_grad_enabled():
            steps.append((x0, eps, t))
        return noised(self, x0, eps, t, *chain)

    with patch.object(GaussianDiffusion, "noised", noted):
        trained(folder, *overrides)
    return steps


def test_runs_that_differ_see_the_same_data_noise_and_times(tmp_path):
    """The times as far as both have them: of T = 20 each is one of two that T = 10 has as one."""
    twenty = [word for word in TINY if not word.startswith("schedule.T")]
    plain = seen(tmp_path / "plain", *TINY)
    other = seen(tmp_path / "other", *twenty, "schedule=cosine", "schedule.T=20", "loss=hybrid", "prediction=v", "optim.lr=0.1")
    assert len(plain) == len(other) == 2
    for (x0, eps, t), (x0_other, eps_other, t_other) in zip(plain, other, strict=True):
        assert torch.equal(x0, x0_other)
        assert torch.equal(eps, eps_other)
        assert torch.equal(t, (t_other + 1) // 2)
