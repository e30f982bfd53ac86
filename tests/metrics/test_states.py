"""The scores as torchmetrics: equal to the pure functions to the bit, however the data come, and wherever they are gathered."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.metrics.frechet import frechet_distance, stats_of
from ddpm_lab.metrics.scores import ClassSums, Score, fd_infinity, inception_score, kid, precision_recall, subset
from ddpm_lab.metrics.sliced import mind
from ddpm_lab.metrics.states import (
    FrechetDistance,
    FrechetDistanceAtInfinity,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
    SlicedWasserstein,
)

DIM, SPLITS, BATCH = 4, 5, 30
NAMES = ("fd", "fd_inf", "kid", "mind", "precision", "is")


def rows(n: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))


SAMPLES, REAL = rows(120, 0, 0.9), rows(90, 1)


def metric(name: str) -> Metric:
    made = {
        "fd": lambda: FrechetDistance(DIM),
        "fd_inf": lambda: FrechetDistanceAtInfinity(DIM),
        "kid": lambda: KernelDistance(subsets=7, size=20),
        "mind": lambda: SlicedWasserstein(projections=9, seed=2),
        "precision": lambda: PrecisionRecall(),
        "is": lambda: InceptionScore(DIM, splits=SPLITS),
    }
    return made[name]()


def updated(metric: Metric, samples: Tensor = SAMPLES, real: Tensor = REAL) -> Metric:
    for batch in samples.split(BATCH):
        metric.update(batch)
    for batch in real.split(BATCH):
        metric.update(batch, real=True)
    return metric


def expected(name: str) -> Score | tuple[Score, Score]:
    """By the pure functions, on the same batches."""
    reference = stats_of(REAL.split(BATCH))
    if name == "fd":
        return Score(frechet_distance(stats_of(SAMPLES.split(BATCH)), reference), None)
    if name == "fd_inf":
        return fd_infinity(SAMPLES, reference)
    if name == "kid":
        return kid(SAMPLES, REAL, 7, 20)
    if name == "mind":
        return mind(SAMPLES[: len(REAL)], REAL, 9, 2)
    if name == "precision":
        return precision_recall(SAMPLES, REAL)
    sums = ClassSums.empty(DIM, SPLITS)
    for start in range(0, len(SAMPLES), BATCH):
        sums = sums.add(SAMPLES[start : start + BATCH], start)
    return inception_score(sums)


def values(computed: Tensor | dict[str, Tensor]) -> list[float]:
    parts = computed.values() if isinstance(computed, dict) else [computed]
    assert all(part.dtype == torch.float64 and part.ndim == 0 for part in parts)
    return [float(part) for part in parts]


def expected_values(name: str) -> list[float]:
    scores = expected(name)
    return [scores.value] if isinstance(scores, Score) else [score.value for score in scores]


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_pure_function_to_the_bit(name):
    full = updated(metric(name))
    assert full.score() == expected(name)
    assert values(full.compute()) == expected_values(name)


def test_of_more_data_than_samples_a_random_subset_is_taken():
    full = updated(metric("mind"), REAL, SAMPLES)
    assert full.score() == mind(REAL, subset(SAMPLES, len(REAL)), 9, 2) != mind(REAL, SAMPLES[: len(REAL)], 9, 2)


@pytest.mark.parametrize("name", NAMES)
def test_reset_forgets_everything(name):
    full = updated(metric(name), rows(50, 7), rows(40, 8))
    full.reset()
    assert updated(full).score() == expected(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_copies_continue_on_their_own(name, copied):
    half = metric(name)
    for batch in SAMPLES[:60].split(BATCH):
        half.update(batch)
    other = copied(half)
    updated(other, SAMPLES[60:])
    assert other.score() == expected(name)
    assert updated(half, SAMPLES[60:]).score() == expected(name)


def test_a_collection_computes_all_by_name():
    collection = MetricCollection({name: metric(name) for name in NAMES})
    for batch in SAMPLES.split(BATCH):
        collection.update(batch)
    for batch in REAL.split(BATCH):
        collection.update(batch, real=True)
    computed = {key: float(value) for key, value in collection.compute().items()}
    precision, recall = expected_values("precision")
    assert computed == {
        "precision": precision,
        "recall": recall,
        **{name: expected_values(name)[0] for name in NAMES if name != "precision"},
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_conversion_rounds_the_states(name):
    """`.half()`, `.to(dtype)`, and those of a module that holds the metric."""
    full = updated(metric(name))
    module = torch.nn.ModuleDict({"metric": full})
    module.half().to(torch.bfloat16).to("cpu")
    full.half().to("cpu", torch.float32)
    assert full.score() == expected(name)


@pytest.mark.parametrize("name", ["fd", "fd_inf", "kid", "mind", "precision"])
def test_an_extractor_sees_each_batch(name):
    images, real = (x.reshape(-1, 1, 2, 2) for x in (SAMPLES, REAL))
    plain, extracted = metric(name), metric(name)
    extracted.extractor = Pixels()
    assert updated(extracted, images, real).score() == updated(plain).score()


def test_logits_are_those_of_an_extractor_that_classifies():
    class Twice:
        def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, 2 * x

    twice = InceptionScore(DIM, Twice(), SPLITS)
    assert updated(twice, SAMPLES / 2).score() == expected("is")


def test_reference_moments_take_the_place_of_real_data():
    for name, made in (("fd", FrechetDistance), ("fd_inf", FrechetDistanceAtInfinity)):
        against = made(DIM, reference=stats_of(REAL.split(BATCH)))
        with pytest.raises(ValueError, match="real"):
            against.update(REAL, real=True)
        for batch in SAMPLES.split(BATCH):
            against.update(batch)
        assert against.score() == expected(name)


def test_the_value_of_a_batch_leaves_the_total():
    distance = FrechetDistance(DIM, reference=stats_of(REAL.split(BATCH)))
    for batch in SAMPLES.split(BATCH):
        assert float(distance(batch)) == frechet_distance(stats_of([batch]), stats_of(REAL.split(BATCH)))
    assert float(distance.compute()) == pytest.approx(expected_values("fd")[0], rel=1e-12)


@pytest.mark.parametrize("made", [KernelDistance, PrecisionRecall, FrechetDistanceAtInfinity])
def test_features_beyond_the_limit_lie_in_mapped_files(made, tmp_path):
    settings = {"dim": DIM} if made is FrechetDistanceAtInfinity else {}
    settings |= {"subsets": 7, "size": 20} if made is KernelDistance else {}
    mapped = updated(made(folder=tmp_path / "features", in_memory=40 * DIM * 4, **settings))
    assert len(mapped.samples) == 4
    files = set((tmp_path / "features").glob("*.npy"))
    assert len(files) >= 3
    assert mapped.score() == updated(made(**settings)).score()
    mapped.reset()
    assert updated(mapped).score() == updated(made(**settings)).score()


# --- two processes -----------------------------------------------------------------------------------------------------------


def share(rank: int, place: str) -> None:
    """One of two processes: its half of samples and data."""
    dist.init_process_group("gloo", f"file://{place}/rendezvous", rank=rank, world_size=2)
    samples, real, scores = SAMPLES.split(60)[rank], REAL.split(60)[rank], {}
    for name in NAMES:
        part = metric(name)
        if name == "is":
            part.update(samples, first=60 * rank)
            scores[name] = (part.score(), values(part.compute()))
        else:
            scores[name] = (updated(part, samples, real).score(), values(part.compute()))
        assert part.score() == scores[name][0]
    torch.save(scores, f"{place}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.soak
def test_two_processes_gather_to_the_numbers_of_one(tmp_path):
    mp.spawn(share, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        scores = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for name in NAMES:
            score, computed = scores[name]
            flat = [score] if isinstance(score, Score) else score
            alone = [expected(name)] if isinstance(expected(name), Score) else expected(name)
            for ours, theirs in zip(flat, alone, strict=True):
                exact = name in ("kid", "precision")  # features are the same; sums have another order
                assert ours == theirs if exact else ours.value == pytest.approx(theirs.value, rel=1e-9)
            assert computed == [one.value for one in flat]
