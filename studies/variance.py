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
LEARNED = {"range": ["loss=hybrid"], "diagonal": ["loss=vlb", "variance=learned_diagonal"]}
STEPS = {"digits": "5,10,20,25,50,100", "photographs": "10,50,100,1000"}
SAMPLERS = "sampler=ancestral,ddim"


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


def ladder(of: str, folder: Path, data: list[str]) -> None:
    """Every rung of one run: its heads, then bits/dim and Fréchet distances on two trajectories, then the exact rung."""
    for head in HEADS:
        train(folder / "heads" / head, f"head={head}", f"base={folder}")
    few = ["nll.chain=sampler", "nll.terms=null", "nll.train_stride=0", *(["nll.n=96"] if of == "photographs" else [])]
    for spacing in ("trailing", "linspace"):
        steps = f"sampler.steps={STEPS[of]}"
        evaluate(folder, f"ladder_{spacing}", "variance=all", SAMPLERS, f"sampler.spacing={spacing}", steps, *few, *data)
    if of == "digits":
        exact = ["variance=exact", SAMPLERS, "sampler.steps=5,10,25,50,100", "quality.n=64", "quality.grid=0", "nll.n=64"]
        evaluate(folder, "exact", *exact, *[word for word in few if not word.startswith("nll.n=")])


def main(of: str, *source: str) -> None:
    base = ["experiment=photographs16", f"data.path={Path(*source).absolute()}"] if of == "photographs" else []
    features = ["metrics=pixels,classifier"] if of == "photographs" else []
    for seed in SEEDS:
        folder = ROOT / of / f"seed{seed}"
        train(folder, *base, f"seed={seed}")
        ladder(of, folder, features)
        for name, words in LEARNED.items() if of == "digits" else ():
            second = ROOT / of / f"{name}{seed}"
            train(second, f"seed={seed}", *words)
            chain = ["nll.chain=sampler", "nll.terms=null", "nll.train_stride=0"]
            evaluate(second, "ladder_trailing", "variance=auto", "sampler=ancestral", f"sampler.steps={STEPS[of]}", *chain)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["digits"], ["photographs"]) or len(sys.argv) != (3 if sys.argv[1] == "photographs" else 2):
        sys.exit(__doc__)
    main(*sys.argv[1:])
