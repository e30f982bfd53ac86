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
STEPS = {"digits": "5,10,20,25,50,100", "photographs": "10,50,100"}
SPACINGS = {"digits": ["trailing"], "photographs": ["trailing", "linspace"]}
BOUND = ["nll.chain=sampler", "nll.terms=null", "nll.train_stride=0", "nll.n=96"]
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


def ladder(of: str, folder: Path, data: list[str]) -> None:
    """Every rung of one run: its heads, then bits/dim and Fréchet distances on each trajectory, then samples of `exact`."""
    for head in HEADS:
        train(folder / "heads" / head, f"head={head}", f"base={folder}")
    for spacing in SPACINGS[of]:
        steps = f"sampler.steps={STEPS[of]}"
        evaluate(folder, f"ladder_{spacing}", "variance=all", BOTH, f"sampler.spacing={spacing}", steps, *BOUND, *data)
    if of == "digits":
        few = ["sampler.steps=5,10", "nll.n=2", "quality.grid=0"]
        evaluate(folder, "exact", "variance=exact", "sampler=ancestral", *BOUND[:-1], *few)


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
            evaluate(second, "ladder_trailing", "variance=auto", "sampler=ancestral", f"sampler.steps={STEPS[of]}", *BOUND)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["digits"], ["photographs"]) or len(sys.argv) != (3 if sys.argv[1] == "photographs" else 2):
        sys.exit(__doc__)
    main(*sys.argv[1:])
