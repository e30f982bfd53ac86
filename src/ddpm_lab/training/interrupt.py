"""Ctrl-C, SIGTERM and SIGHUP let the step in progress finish, so that what is saved is a whole step."""

import signal
from types import FrameType

from ddpm_lab import ranks, signals

ASK_EVERY = 10


class Interrupted(Exception):
    """Training stopped at a whole step because a signal came; `number` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interrupt:
    """Remembers the first signal; the second one stops at once. Lightning puts the handlers of before back when it ends."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def listen(self) -> None:
        """Take over the signals, after Lightning has installed its own handlers."""
        signals.listen(self._on_signal)

    def agreed(self, step: int = 0) -> int:
        """The signal that came, or 0; call at every whole step. Several processes ask each other every `ASK_EVERY` steps, so
        that all stop at one step, whichever of them was told."""
        if ranks.world() == 1:
            return self.signal or 0
        return max(ranks.gather(self.signal or 0)) if step % ASK_EVERY == 0 else 0

    def check(self) -> None:
        """Call where all is saved: raises Interrupted if a signal has come to any process."""
        if number := self.agreed():
            raise Interrupted(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this step; once more to stop at once", flush=True)
