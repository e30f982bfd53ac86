"""Run folders as training and evaluation leave them, with numbers that the tests choose. No network is trained for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

T, N = 8, 60
DATA = {"_target_": "ddpm_lab.data.digits.Digits", "batch_size": 32, "val_fraction": 0.2, "split_seed": 0, "flip": False}
SCHEDULES = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02, "rescale": False},
    "cosine": {"offset": 0.008, "max_beta": 0.999},
}


def config(seed: int, schedule: str = "linear", loss: str = "Simple", variance: str = "Beta", **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "seed": seed,
        "resume": None,
        "run": {"root": "outputs", "experiment": "x", "name": f"run{seed}"},
        "data": dict(DATA),
        "schedule": {"_target_": f"ddpm_lab.core.schedule.{schedule}", "T": T, **SCHEDULES[schedule]},
        "loss": {"_target_": f"ddpm_lab.core.loss.{loss}"},
        "variance": {"_target_": f"ddpm_lab.core.variance.{variance}"},
        "optim": {"lr": 1e-3},
        "callbacks": {"samples": {"n": 4, "seed": 0}},
        "trainer": {"max_steps": 20, "devices": 1},
    }
    for key, value in more.items():
        group, _, name = key.partition("__")
        made[group] = made[group] | {name: value} if name else value
    return made


def record(**more: Any) -> dict[str, Any]:
    fields = {
        "unit": "bits/dim",
        "split": "validation",
        "n": N,
        "stride": 2,
        "T": T,
        "seed": 0,
        "weights": "ema/0.9999",
        "tf32": False,
    }
    return fields | more


def curves(schedule: str) -> list[dict[str, Any]]:
    """Another line for each schedule."""
    power = 1 + list(SCHEDULES).index(schedule.rpartition(".")[2])
    signal = [1 - (t / (T + 1)) ** power for t in range(T + 1)]
    log_snr = [float(np.log(s / (1 - s))) if s < 1 else None for s in signal]
    x = {"label": "t / T", "values": [t / T for t in range(T + 1)]}
    return [
        {"title": "ᾱ: remaining variance of the signal", "alt": "ᾱ over t/T.", "x": x, "y": {"label": "ᾱ", "values": signal}},
        {"title": "Signal-to-noise ratio", "alt": "log-SNR over t/T.", "x": x, "y": {"label": "log SNR", "values": log_snr}},
    ]


def write_run(path: Path, cfg: dict[str, Any], bpd: Any = 3.0, fd: float = 10.0, **fields: Any) -> Path:
    """`bpd`: the bound of each image, or of all. `fields` change the records."""
    (path / "samples").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(cfg))
    images, index = np.broadcast_to(np.asarray(bpd, dtype=float), N), np.arange(N)
    total = float(images.mean())
    terms = np.linspace(1, 0.1, T)
    np.savez(
        path / "vlb_terms.npz",
        times=np.arange(1, T + 1),
        terms_bpd=terms * (total - 0.25) / terms.sum(),
        prior_bpd=0.25,
        per_datum_bpd=images / 2 - 0.125,
        per_datum_prior_bpd=np.full(N, 0.25),
        index=index,
        stride=2,
        data_sha256="ab" * 32,
    )
    fd_record = {"extractor": "pixels", "reference": "train", "n": 256, "seed": 1, "sampler": "Ancestral", "steps": T}
    metrics = {
        "bound_bpd": {"value": total, "standard_error": 0.02} | record(**fields),
        "prior_bpd": {"value": 0.25} | record(**fields),
        "pixels_fd": {"value": fd} | fd_record | {k: v for k, v in fields.items() if k == "n"},
    }
    summary = {
        "step": 20,
        "seed": cfg["seed"],
        "train_seconds": 12.5,
        "images_per_s": 800.0,
        "parameters": 44969,
        "device": "cpu",
    }
    versions = {"versions": {"torch": "2.15.0", "ddpm-lab": "0.1.0"}}
    (path / "summary.json").write_text(json.dumps({"metrics": metrics} | summary | versions))
    rows = [f"{step},{1 / step},{total + 1 / step},{fd + 10 / step}" for step in (5, 10, 15, 20)]
    (path / "metrics.csv").write_text("\n".join(["step,train/loss,val/bound_bpd,val/pixels_fd", *rows]) + "\n")
    (path / "curves.json").write_text(json.dumps(curves(cfg["schedule"]["_target_"])))
    Image.new("L", (34, 34), cfg["seed"]).save(path / "samples" / "step_0000020.png")
    return path


def write_evaluation(
    run: Path,
    arms: dict[tuple[str, int, str], tuple[Any, Any]],
    name: str = "e",
    stride: int = 1,
    sha256: str = "cd" * 32,
    seed: int = 0,
) -> None:
    """Bound (that of each image, or of all without saying which) and Fréchet distance (or that of each set of samples, the
    first of sampling seed `seed`) by (sampler, steps, variance). What is None was not measured."""
    folder = run / "eval" / name
    folder.mkdir(parents=True)
    arms_written = []
    for (sampler, steps, variance), (bound, fd) in arms.items():
        key, files = "bound" if steps == T else f"bound_{steps}", {}
        if not isinstance(bound, float | None):
            files[key] = f"per_datum_{len(arms_written)}_{key}.npz"
            write_per_datum(folder / files[key], bound, stride, sha256)
            bound = float(np.mean(bound))
        of_bound = {"n": N, "data": "val", "steps": steps, "variance": variance, "seed": 0, "T": T}
        of_samples = {"n": 256, "split": "samples", "extractor": "pixels", "sampler": sampler, "steps": steps, "seed": seed}
        results = [entry(key, bound, 0.02, of_bound), entry("pixels_fd", fd, None, of_samples)]
        arms_written.append(
            {
                "sampler": sampler,
                "steps": steps,
                "variance": variance,
                "picture": None,
                "per_datum": files,
                "results": [each for each in results if each["value"] is not None],
            }
        )
        rows = [f"{t},{0.1},{(bound or 0.0) * t / steps},{200 / t}" for t in range(1, steps + 1)]
        (folder / f"bound_{steps}_{variance}.csv").write_text(
            "\n".join(["t,bits_per_dim,rate_bits_per_dim,rmse_of_255", *rows])
        )
    content = {"checkpoint": "last.ckpt", "weights": "ema/0.9999", "step": 20, "seed": 0, "versions": {}, "arms": arms_written}
    (folder / "evaluation.json").write_text(json.dumps(content))


def entry(key: str, value: Any, se: float | None, record: dict[str, Any]) -> dict[str, Any]:
    """One of evaluation.json. Of several sets of samples `value` is the list of theirs."""
    several: dict[str, Any] = {}
    if isinstance(value, list):
        known = [each for each in value if each is not None]
        several, record = {"sets": value}, record | {"sets": len(value), "std": float(np.std(known, ddof=1))}
        value, se = float(np.mean(known)), record["std"] / len(known) ** 0.5
    return {"key": key, "label": key, "value": value, "standard_error": se, "record": record} | several


def write_per_datum(path: Path, bpd: Any, stride: int, sha256: str) -> None:
    """Such that the strata's means and L_T add up to the mean of `bpd`."""
    np.savez(
        path,
        per_datum_bpd=(np.asarray(bpd) - 0.25) / stride,
        per_datum_prior_bpd=np.full(N, 0.25),
        index=np.arange(N),
        stride=stride,
        data_sha256=sha256,
        split="val",
        seed=0,
    )


def sweep(root: Path, seeds: tuple[int, ...] = (1, 2, 3), gain: float = 0.4) -> Path:
    """Two schedules × two losses. Seeds and images move all alike; cosine gains, hybrid does not."""
    rng, number = np.random.default_rng(0), 0
    images, of_seed = rng.normal(3, 0.3, N), dict(zip(seeds, rng.normal(0, 0.1, len(seeds)), strict=True))
    for schedule in SCHEDULES:
        for loss, variance in (("Simple", "Beta"), ("Hybrid", "LearnedRange")):
            for seed in seeds:
                bpd = images + of_seed[seed] - gain * (schedule == "cosine") + rng.normal(0, 0.02, N) + rng.normal(0, 0.01)
                cfg = config(seed, schedule, loss, variance)
                write_run(root / str(number), cfg, bpd, 10 + rng.normal())
                number += 1
    return root
