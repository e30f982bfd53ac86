"""The digits are scikit-learn's, split as the docstring says."""

import numpy as np
import pytest
import torch
from helpers import composed
from sklearn.datasets import load_digits

from ddpm_lab.compare.choices import flat_config
from ddpm_lab.config.build import training_identity
from ddpm_lab.config.nested import plain
from ddpm_lab.data.digits import Digits
from ddpm_lab.data.memory import seeded_split


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup()
    return data


def test_every_pixel_and_label_is_scikit_learns(digits):
    source = load_digits()
    train, held = seeded_split(1797, 0.2, 0)
    for images, labels, rows in (
        (digits.train_images, digits.train_labels, train),
        (digits.val_images, digits.val_labels, held),
    ):
        assert np.array_equal(images[:, 0].numpy(), source.images[rows])  # float64 there: nothing was cut off
        assert np.array_equal(labels.numpy(), source.target[rows])


def test_sizes_levels_and_range(digits):
    assert (len(digits.train_images), len(digits.val_images)) == (1437, 360)
    assert digits.shape == (1, 8, 8)
    assert digits.train_images.unique().tolist() == list(range(digits.levels))
    assert sorted(digits.train_labels.unique().tolist()) == list(range(digits.classes))
    x = digits.scaled("train")
    assert torch.equal((x + 1) * 8, digits.train_images.float())
    assert (x.min(), x.max()) == (-1, 1)
    assert next(iter(digits.train_dataloader())).x0.shape == (128, 1, 8, 8)


def test_split_follows_its_own_seed_and_not_the_runs(digits):
    other, same = Digits(split_seed=1), Digits()
    same.seed = 5
    for data in (other, same):
        data.setup()
    assert torch.equal(same.val_images, digits.val_images)
    assert not torch.equal(other.val_images, digits.val_images)
    assert other.state_dict() != digits.state_dict() == same.state_dict()


def test_a_digit_is_not_mirrored_unless_asked(digits):
    known = {image.numpy().tobytes() for image in digits.train_images}
    batch = next(iter(digits.train_dataloader()))
    rows = ((batch.x0 + 1) * 8).to(torch.uint8)
    assert all(image.numpy().tobytes() in known for image in rows)


def test_two_levels_are_half_of_the_ink_or_more(digits):
    binary = Digits(levels=2)
    binary.setup()
    assert torch.equal(binary.train_images, (digits.train_images >= 8).byte())
    assert set(binary.scaled("val").unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(binary.val_labels, digits.val_labels)
    assert binary.state_dict() != digits.state_dict()


def test_runs_of_before_there_were_two_levels_are_runs_of_17():
    """Their configurations have no such key: they train the same weights, and their numbers are compared."""
    new, old = composed(), composed()
    del old.data.levels
    assert training_identity(old) == training_identity(new) != training_identity(composed("data.levels=2"))
    assert flat_config(plain(old)) == flat_config(plain(new)) != flat_config(plain(composed("data.levels=2")))
