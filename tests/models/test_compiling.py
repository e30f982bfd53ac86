"""trainer.compile: what is compiled is what is called, and models of which nothing would be are refused."""

import pytest
import torch
from torch import nn

from ddpm_lab.config.preflight import preflight
from ddpm_lab.core.batch import Batch
from ddpm_lab.errors import UserError
from ddpm_lab.models.autoencoder import Autoencoder, SparseAutoencoder
from ddpm_lab.models.contract import Model
from ddpm_lab.models.denoising import DenoisingAutoencoder
from ddpm_lab.models.vae import VAE


@pytest.mark.parametrize(("kind", "networks"), [(VAE, 2), (Autoencoder, 1), (SparseAutoencoder, 1), (DenoisingAutoencoder, 1)])
def test_a_batch_goes_through_what_is_compiled(kind: type[Model], networks, monkeypatch):
    asked, called = [], []

    def compile(net: nn.Module, mode: str | None) -> None:
        asked.append(mode)
        net._compiled_call_impl = lambda *x: called.append(net) or net._call_impl(*x)

    monkeypatch.setattr(nn.Module, "compile", compile)
    model = kind(shape=(1, 8, 8), levels=17, seed=0, config={})
    model.compile_net("reduce-overhead")
    model.losses(Batch(torch.zeros(2, 1, 8, 8), 0, 0, 2))
    assert asked == ["reduce-overhead"] * networks
    assert len(called) == networks
    assert model.compiled == "reduce-overhead"


@pytest.mark.parametrize("model", ["rbm", "dbm", "dbn", "sbn", "hopfield"])
def test_where_nothing_would_be_compiled_it_is_refused(model):
    words = [f"model={model}", "data.levels=2", "experiment=smoke", "trainer.max_steps=2000"]
    preflight(words)
    with pytest.raises(UserError, match=r"trainer\.compile=true.*trainer\.compile=false") as refusal:
        preflight([*words, "trainer.compile=true"])
    assert "\n" not in str(refusal.value)
