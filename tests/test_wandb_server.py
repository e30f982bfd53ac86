"""The stand-in for wandb's server leaves no process behind, even one that does not end of itself."""

import signal
import subprocess
import time

import wandb
from wandb_server import end_service, no_account  # noqa: F401


def test_a_service_that_does_not_end_is_killed(no_account):  # noqa: F811
    process: subprocess.Popen = wandb.setup().ensure_service()._proc._process
    process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    end_service(patience=0.5)
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 60
