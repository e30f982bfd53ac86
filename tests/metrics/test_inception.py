"""FID by our code is FID by torch-fidelity's, with the same weights; and what is asked for before any work is done."""

import hashlib
import pickle
import re
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch_fidelity
from formats import Payload
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from ddpm_lab.domains import Incompatible
from ddpm_lab.errors import UserError
from ddpm_lab.metrics import inception as module
from ddpm_lab.metrics.extractors import WORDS, Pixels, extract
from ddpm_lab.metrics.frechet import frechet_distance, stats_of
from ddpm_lab.metrics.inception import Inception
from ddpm_lab.metrics.scores import ClassSums, inception_score, kid


@pytest.fixture(scope="module")
def extractor(inception_weights) -> Inception:
    return Inception(str(inception_weights), batch=4)


def images(n: int, seed: int, channels: int = 3, size: int = 12) -> Tensor:
    """uint8, smooth enough to differ in more than noise; another seed is another distribution."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (n, channels, 3, 3), generator=g).float() * (0.5 + 0.5 * (seed % 2))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").to(torch.uint8)


def scaled(x: Tensor) -> Tensor:
    return x.float() * (2 / 255) - 1


class Images(Dataset):
    """As torch-fidelity takes them."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        return self.x[i]


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # torch-fidelity's
def test_fid_equals_torch_fidelitys(extractor, inception_weights):
    a, b = images(20, 0), images(30, 1)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(a), input2=Images(b), fid=True, feature_extractor="inception-v3-compat", cuda=False, cache=False,
        batch_size=4, verbose=False, feature_extractor_weights_path=str(inception_weights),
    )["frechet_inception_distance"]  # fmt: skip
    ours = frechet_distance(*(stats_of(extractor(scaled(x)) for x in half.split(7)) for half in (a, b)))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours > 0.1


def test_features_are_torch_fidelitys_of_the_same_bytes(extractor):
    x = images(3, 0)
    expected = extractor._net(x)[0]
    assert torch.equal(extractor(scaled(x)), expected)
    assert (extractor(scaled(x)).shape, float(expected.std()) > 0.01) == ((3, 2048), True)
    torch.testing.assert_close(extractor(scaled(x) + 0.4 / 127.5), expected)  # rounded, not cut
    torch.testing.assert_close(extractor(scaled(images(9, 0)))[:3], expected, rtol=1e-4, atol=1e-5)  # whatever the pass


def test_grey_images_are_the_same_in_three_channels(extractor):
    grey = images(2, 0, channels=1)
    assert torch.equal(extractor(scaled(grey)), extractor(scaled(grey.expand(-1, 3, -1, -1))))


def test_the_name_says_how_many_samples_and_which_weights(extractor, inception_weights, monkeypatch):
    assert [extractor.key(n) for n in (8, 49_999, 50_000, 60_000)] == ["fid@8", "fid@49999", "fid", "fid"]
    sha256 = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert extractor.record["weights_sha256"] == sha256
    assert extractor.label(8) == f"FID@8 by weights {sha256[:8]}, not the published ones,"
    monkeypatch.setattr(module, "SHA256", sha256[:8])
    assert (extractor.label(8), extractor.label(50_000)) == ("FID@8", "FID")


def test_other_numbers_follow_the_same_rule(extractor, inception_weights, monkeypatch):
    monkeypatch.setattr(module, "SHA256", extractor.sha256[:8])
    names = ["fid", "fid_class", "fid_inf", "kid", "is", "precision", "recall", "mind", "c_t", "authenticity"]
    assert [extractor.key(8, metric) for metric in WORDS] == [f"{name}@8" for name in names]
    assert [extractor.key(50_000, metric) for metric in WORDS] == names
    assert [extractor.label(8, metric) for metric in ("kid", "recall")] == ["KID@8", "recall@8"]
    assert [Pixels().key(8, metric) for metric in ("fd", "kid")] == ["pixels_fd", "pixels_kid"]
    assert Pixels().label(8, "kid") == "pixels kernel distance"


def test_logits_come_in_the_same_pass_without_their_bias(extractor, inception_weights):
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_weights)
    )
    x = images(3, 0)
    features, logits = extract(extractor, scaled(x))
    torch.testing.assert_close(features, theirs(x)[0])
    torch.testing.assert_close(logits.float(), theirs(x)[1], rtol=1e-4, atol=1e-4)
    assert extract(Pixels(), scaled(x))[1] is None


def folder_of(path: Path, x: Tensor) -> str:
    path.mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path / f"{i:03}.png")
    return str(path)


def as_the_evaluator_does(extractor: Inception, x: Tensor, splits: int) -> tuple[Tensor, ClassSums]:
    features, sums = [], ClassSums.empty(1008, splits)
    for start in range(0, len(x), 7):
        rows, logits = extract(extractor, scaled(x[start : start + 7]))
        features.append(rows)
        sums = sums.add(logits, start)
    return torch.cat(features), sums


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # torch-fidelity's
def test_folders_have_torch_fidelitys_numbers(extractor, inception_weights, tmp_path):
    """FID, KID and Inception Score of its own `calculate_metrics`, from files to numbers."""
    a, b = images(24, 0), images(24, 1)
    theirs = torch_fidelity.calculate_metrics(
        input1=folder_of(tmp_path / "a", torch.cat([a[::2], a[1::2]])),
        input2=folder_of(tmp_path / "b", b),
        fid=True,
        kid=True,
        isc=True,
        isc_splits=2,
        kid_subsets=2,
        kid_subset_size=24,
        samples_shuffle=False,
        cuda=False,
        cache=False,
        batch_size=4,
        verbose=False,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights),
    )  # fmt: skip  (its parts are contiguous and ours interleaved)
    (samples, sums), (real, _) = (as_the_evaluator_does(extractor, x, 2) for x in (a, b))
    fid = frechet_distance(stats_of([samples]), stats_of([real]))
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert kid(samples, real, 2, 24).value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    score = inception_score(sums)
    assert score.value - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=1e-3)  # random: hardly above 1
    assert score.std == pytest.approx(theirs["inception_score_std"], rel=1e-2)


def test_making_it_draws_nothing(inception_weights):
    state = torch.get_rng_state()
    made = Inception(str(inception_weights), 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in made._net.parameters())
    assert not made._net.training


# --- where the weights come from -----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """torch's cache, empty; a network that is not there."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*_, **__) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "checkpoints"


def test_weights_that_cannot_be_had_are_one_message(hub):
    with pytest.raises(UserError) as caught:
        Inception(None, 4)
    for said in (str(hub / module.NAMES[0]), module.URL, "no route to host", "metrics.weights=FILE", "metrics=pixels"):
        assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_in_torchs_cache_are_taken_under_either_name(hub, inception_weights):
    hub.mkdir()
    for name in module.NAMES:
        (hub / name).symlink_to(inception_weights)
        assert Inception(None, 4).record["weights_sha256"] == Inception(str(inception_weights), 4).record["weights_sha256"]
        (hub / name).unlink()


def test_weights_are_downloaded_checked_and_kept(hub, inception_weights, monkeypatch):
    asked = []

    def download(url: str, target: str, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        Path(target).symlink_to(inception_weights)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    Inception(None, 4)
    Inception(None, 4)
    assert asked == [(module.URL, "6726825d")]


def test_a_file_that_is_not_the_weights_is_refused_and_not_run(tmp_path, inception_weights):
    trap = tmp_path / "trap"
    state = torch.load(inception_weights, weights_only=True)
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(3)}, tmp_path / "another.pth")
    (tmp_path / "cut.pth").write_bytes(inception_weights.read_bytes()[:1000])
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Payload(trap)))
    torch.save({**state, "trap": Payload(trap)}, tmp_path / "evil.pth")
    for name in ("another", "cut", "pickle", "evil"):
        with pytest.raises(UserError, match=re.escape(f"metrics.weights={tmp_path / name}.pth: not the weights of")):
            Inception(str(tmp_path / f"{name}.pth"), 4)
    assert not trap.exists()


def test_vectors_are_refused_before_the_network_is_read():
    class Vectors:
        gives = "vectors"

    with pytest.raises(Incompatible, match="vectors") as caught:
        Inception(data=Vectors())
    assert caught.value.arguments == ("metrics", "data")
