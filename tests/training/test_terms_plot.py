"""The plot of the terms of the bound."""

import numpy as np
import pytest
from helpers import one_pixel
from PIL import Image

from ddpm_lab.training.callbacks.bound import VLBTerms, plot

from .support import Dots, fit, module, quiet

pytestmark = quiet


@pytest.mark.parametrize("sign", [1, -1])
def test_the_plot_of_terms_of_either_sign_is_not_cut_off(sign, tmp_path):
    """A term of a density may be negative: the scale is linear then."""
    terms = sign * np.geomspace(1e-5, 20, 1000)
    plot(
        {"times": np.arange(1, 1001), "terms_bpd": terms, "terms_se": abs(terms) / 9}, terms.sum(), 4, False, tmp_path / "p.png"
    )
    grey = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    assert grey.min() < 100
    assert all((edge == 255).all() for edge in (grey[:4], grey[-4:], grey[:, :4], grey[:, -4:]))


@pytest.mark.parametrize("terms", [None, 3])
def test_the_plot_says_which_terms_are_those_of_a_pilot(terms, tmp_path, monkeypatch):
    titles: dict[bool, list[str]] = {}
    monkeypatch.setattr(
        "ddpm_lab.training.callbacks.bound.Figure.savefig",
        lambda figure, path, **_: (
            titles.__setitem__(callback.ended, [axes.get_title() for axes in figure.axes]),
            one_pixel(path),
        ),
    )
    callback = VLBTerms(2, 1, 0, final_terms=terms)
    callback.ended = False
    model = module()
    trainer = fit(tmp_path, model, [callback], data=Dots(n_val=20), steps=2, validate_every=2)
    callback.ended = True
    callback.final(trainer, model)
    assert ["pilot" in title for title in titles[False]] == [False, False]
    assert ["pilot" in title for title in titles[True]] == [terms is not None] * 2
