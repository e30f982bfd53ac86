"""Where the chance in a number comes from: 12 training seeds of four choices, three sets of samples of each.

    python studies/chance.py

An hour on two cores. Three ordinary commands, printed before they run: 48 short trainings, two at a time; an evaluation of all
of them, of which two processes share the work; and compare.py. What is finished is not done again, and what was stopped goes
on, so the same line may be given over several sittings. All goes to outputs/multirun/chance.
"""

import sys
from pathlib import Path

from variance import run

FOLDER = Path("outputs", "multirun", "chance")
ARMS = ["schedule=linear,cosine", "loss=simple,hybrid", f"seed={','.join(map(str, range(12)))}"]
SHORT = ["trainer.max_steps=300", "trainer.validate_every=300", "sweep.n_jobs=2"]
UNMEASURED = [f"callbacks.{name}=null" for name in ("samples", "vlb_terms", "frechet", "frechet_curve")]
"""What is measured later, of all runs alike."""
SAMPLES = ["sampler=ddim", "sampler.steps=25", "quality.n=1000", "quality.sets=3", "metrics=pixels"]
BOUND = ["nll.chain=full", "nll.train_stride=0"]
NAME = "chance"


def main() -> None:
    run("train.py", "-m", "sweep.name=chance", *ARMS, *SHORT, *UNMEASURED, "callbacks.checkpoints.monitor=train/loss")
    runs = sorted((path.parent for path in FOLDER.glob("*/summary.json")), key=lambda path: int(path.name))
    missing = [str(path) for path in runs if not (path / "eval" / NAME / "SHA256SUMS").exists()]
    if missing:
        two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "evaluate.py"]
        run(*two, "-m", f"ckpt={','.join(missing)}", f"name={NAME}", *SAMPLES, *BOUND)
    run("compare.py", str(FOLDER))


if __name__ == "__main__":
    sys.exit(__doc__) if sys.argv[1:] else main()
