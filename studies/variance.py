"""The commands behind the tables of docs/variances.md, one after the other.

    python studies/variance.py digits
    python studies/variance.py photographs photographs16.npz

Hours on two cores. Each is an ordinary command, printed before it runs. What is finished is not done again, and a run or an
evaluation that was stopped goes on, so the same line may be given over several sittings. All goes to outputs/variance.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path("outputs", "variance")
SEEDS = (1, 2, 3)
HEADS = ("npr", "sn", "ocm")
FEW = "5,10,20,25,50"
SPACINGS = ("trailing", "linspace")
BOUND = ["nll.chain=sampler", "nll.terms=null", "nll.train_stride=0"]
BOTH = "sampler=ancestral,ddim"


def run(script: str, *words: str) -> None:
    """One command of the project. Ends this program where it fails."""
    print("$ python", script, *words, flush=True)
    if code := subprocess.run([sys.executable, script, *words], check=False).returncode:
        sys.exit(code)


def train(folder: Path, *words: str) -> None:
    """To its end, from where it stopped."""
    if (folder / "summary.json").exists():
        return
    if (folder / "checkpoints" / "last.ckpt").exists():
        run("train.py", f"resume={folder}")
    else:
        run(
            "train.py",
            *words,
            f"run.root={folder.parent.parent}",
            f"run.experiment={folder.parent.name}",
            f"run.name={folder.name}",
        )


def evaluate(folder: Path, name: str, *words: str) -> None:
    """Into one folder of the run, unless it is there and whole."""
    if not (folder / "eval" / name / "SHA256SUMS").exists() or not (folder / "eval" / name / "table.md").exists():
        run("evaluate.py", "-m", f"ckpt={folder}", f"name={name}", *words)


def digits() -> None:
    """Every rung of each seed, few steps first; exact's samples; the learned range, from second networks of the same seeds;
    last 100 steps, which take as long as the others together."""
    runs = {seed: ROOT / "digits" / f"seed{seed}" for seed in SEEDS}
    for seed, run_of_seed in runs.items():
        train(run_of_seed, f"seed={seed}")
        heads(run_of_seed, *HEADS)
        ladder(run_of_seed, FEW)
    exact = ["variance=exact", "sampler=ancestral", "sampler.steps=5,10", "nll.n=2", "quality.grid=0"]
    for run_of_seed in runs.values():
        evaluate(run_of_seed, "exact", *exact, *BOUND)
    for seed in SEEDS:
        second = ROOT / "digits" / f"range{seed}"
        train(second, f"seed={seed}", "loss=hybrid")
        asked = ["variance=auto", "sampler=ancestral", "sampler.spacing=trailing", f"sampler.steps={FEW}"]
        evaluate(second, "ladder_ancestral", *asked, *BOUND, "nll.n=96")
    for run_of_seed in runs.values():
        ladder(run_of_seed, "100", "_100")


def ladder(folder: Path, steps: str, suffix: str = "") -> None:
    """Every rung that a run can be asked for, under both samplers."""
    for sampler in ("ancestral", "ddim"):
        words = ["variance=all", f"sampler={sampler}", "sampler.spacing=trailing", f"sampler.steps={steps}"]
        evaluate(folder, f"ladder_{sampler}{suffix}", *words, *BOUND, "nll.n=96")


def photographs(source: str) -> None:
    """The rungs that need no products with the network's Jacobian, on both trajectories; the full covariance with bounds of
    fewer data, and beside it the others' bounds of the same data; last what takes longest, samples in 100 steps and in all T,
    a quarter of an hour for each rung and seed. Of the full covariance the decoder's diagonal is exact, and in 10 steps, where
    Krylov spaces of few dimensions fall short, so are the divergences."""
    folders = [ROOT / "photographs" / f"seed{seed}" for seed in SEEDS]
    features, cheap = "metrics=pixels,classifier", "beta,beta_tilde,interpolated,analytic,npr,sn,ocm"

    def measure(name: str, *words: str) -> None:
        for folder in folders:
            for spacing in SPACINGS:
                evaluate(folder, f"{name}_{spacing}", f"sampler.spacing={spacing}", *words, *BOUND)

    for seed, folder in zip(SEEDS, folders, strict=True):
        train(folder, "experiment=photographs16", f"data.path={Path(source).absolute()}", f"seed={seed}")
        heads(folder, *HEADS, "sn_square")
    few, without_samples = "sampler.steps=10,50", ["sampler=ancestral", "quality.n=0"]
    measure("ladder", f"variance={cheap},hutchinson", BOTH, few, features, "nll.n=96")
    measure("square", "variance=sn_square", "sampler=ancestral", few, features, "nll.n=96")
    full, decoder = ["variance=lanczos", "nll.n=16"], "variance.decoder_probes=768"
    measure("full_10", *full, "variance.bound_steps=768", BOTH, "sampler.steps=10", features)
    measure("full_50", *full, decoder, BOTH, "sampler.steps=50", features)
    measure("full_100", *full, decoder, "sampler.steps=100", *without_samples)
    measure("beside", f"variance={cheap}", "sampler.steps=10,50,100", *without_samples, "nll.n=16")
    measure("bits_100", f"variance={cheap}", "sampler.steps=100", *without_samples, "nll.n=96")
    for folder in folders:
        evaluate(folder, "bits_all", f"variance={cheap}", "sampler.steps=1000", *without_samples, *BOUND, "nll.n=96")
    measure("ladder_100", f"variance={cheap}", BOTH, "sampler.steps=100", features, "nll.n=96")
    for rung in cheap.split(","):
        for folder in folders:
            asked = [f"variance={rung}", "sampler=ancestral", "sampler.steps=1000", features, "nll.chain=full"]
            evaluate(folder, f"all_steps_{rung}", *asked)


def heads(folder: Path, *names: str) -> None:
    for head in names:
        train(folder / "heads" / head, f"head={head}", f"base={folder}")


if __name__ == "__main__":
    if sys.argv[1:] == ["digits"]:
        digits()
    elif sys.argv[1:2] == ["photographs"] and len(sys.argv) == 3:
        photographs(sys.argv[2])
    else:
        sys.exit(__doc__)
