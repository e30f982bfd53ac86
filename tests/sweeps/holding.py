"""A callback for runs that a test signals in the middle of a step, however fast the machine is."""

import time
from pathlib import Path

from lightning import Callback


class Hold(Callback):
    """Waits in step `at` while the file `hold` is there; `held` tells that it has begun to."""

    def __init__(self, folder: str, at: int = 3) -> None:
        self.folder, self.at = Path(folder), at

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step + 1 == self.at and (self.folder / "hold").exists():
            (self.folder / "held").touch()
            while (self.folder / "hold").exists():
                time.sleep(0.05)
