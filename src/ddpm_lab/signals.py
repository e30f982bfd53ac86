"""The signals that stop a command: Ctrl-C, SIGTERM, and SIGHUP, by which a terminal goes. Its exit code is then 128 + the
number of the signal: 130, 143, 129."""

import functools
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME = 5.0
"""Seconds within which SIGTERM stands for the one before: SLURM sends it twice where it preempts a job or ends its time."""


class Stopped(KeyboardInterrupt):
    """Raised where a signal stops a command."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def listen(handler: Callable[[int, FrameType | None], Any]) -> dict[int, Any]:
    """Calls the handler for each of the signals. Returns the handlers of before. Under nohup SIGHUP stays ignored."""
    came = -float("inf")

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if number == signal.SIGTERM:
            if time.monotonic() - came < SAME:
                return
            came = time.monotonic()
        if number == signal.SIGHUP:
            _leave_terminal()
        handler(number, frame)

    heard = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, on_signal) for number in heard}


@contextmanager
def heard(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Within it the handler is called for each of the signals."""
    before = listen(handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def stopping(said: str = "stopped") -> Iterator[None]:
    """Within it a signal ends the command: at once, with a line, until `work_begins`; from then on it raises `Stopped`."""
    main = threading.current_thread() is threading.main_thread()
    with heard(functools.partial(_stop, said)) if main else nullcontext():
        yield


_at_work = False


def work_begins() -> None:
    """From now on a stop leaves something to put in order. Before, a command imports and checks: an exception that is raised in
    the middle of an import may break the module or be swallowed by it."""
    global _at_work
    _at_work = True


def _stop(said: str, number: int, frame: FrameType | None) -> None:
    if _at_work:
        raise Stopped(number)
    with suppress(Exception):  # a stream that was just being written to
        sys.stdout.flush()
        print(f"\n{said}", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _leave_terminal() -> None:
    """What is printed to one that has gone would fail."""
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
