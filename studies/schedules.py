"""What a learned or fitted schedule is worth on digits: the table of docs/evaluation.md, three training seeds of each.

    python studies/schedules.py

An hour on two cores. Ordinary commands, printed before they run: short trainings of equal length by the bound itself, and
compare.py. What is finished is not done again, and what was stopped goes on. All goes to outputs/multirun/schedules_….
"""

import sys
from pathlib import Path

from variance import run

ROOT = Path("outputs", "multirun")
ALIKE = ["prediction=v", "variance=beta_tilde", "seed=1,2,3", "trainer.max_steps=300", "trainer.validate_every=300"]
ALIKE += ["sweep.n_jobs=2", "callbacks.samples=null", "callbacks.frechet_curve=null"]
ENDS_OF_LINEAR = ["schedule.gamma_min=-9.21", "schedule.gamma_max=10.1"]
CONTINUOUS = ["loss=vdm", "time=continuous", "timesteps=antithetic"]


def sweep(name: str, *words: str) -> Path:
    """Trains every combination, and returns the folder."""
    run("train.py", "-m", f"sweep.name=schedules_{name}", *words, *ALIKE)
    return ROOT / f"schedules_{name}"


def main() -> None:
    fixed = sweep("fixed", "schedule=linear,cosine,tangent", "loss=vlb")
    pilot = next(path.parent for path in sorted(fixed.glob("*/config.yaml")) if "schedule.cosine" in path.read_text())
    folders = [
        fixed,
        sweep("rate", "schedule=constant_rate", f"schedule.pilot={pilot}", "loss=vlb"),
        sweep("learned", "schedule=learned", "schedule.learn_ends=false,true", "loss=vlb"),
        sweep("learned_within", "schedule=learned", *ENDS_OF_LINEAR, "loss=vlb"),
        sweep("continuous", "schedule=cosine", *CONTINUOUS),
        sweep("continuous_learned", "schedule=learned", "schedule.learn_ends=false,true", *CONTINUOUS),
        sweep("continuous_within", "schedule=learned", *ENDS_OF_LINEAR, *CONTINUOUS),
    ]
    run("compare.py", *map(str, folders))


if __name__ == "__main__":
    sys.exit(__doc__) if sys.argv[1:] else main()
