"""Commands of this laboratory as forks of a process that has imported what they need: an import of torch and Lightning
takes seven seconds of a processor, a fork a tenth of one.

`Process` is `subprocess.Popen`, and what it starts is a child of who asks, with its own number, signals, exit code, streams,
folder, environment and session. The process that is copied has one thread, and has run nothing. A command that was forked
forks others in the same way, such as a sweep its arms. Anything but a script or a command of this repository on one
thread is started as ever: interpreters with options, torchrun, nohup. `test_cli.py` holds both ways equal.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMANDS = ("train", "evaluate", "sample", "figures", "compare", "convert", "dashboard")
SCRIPTS = [[str(place / f"{name}.py")] for name in COMMANDS for place in (ROOT, ROOT / "src" / "ddpm_lab" / "cli")]
MODULES = [["-m", f"ddpm_lab.cli.{name}"] for name in COMMANDS]
LINUX, PR_SET_CHILD_SUBREAPER = sys.platform == "linux", 36
LONGEST = 1 << 18
"""Bytes of a request: the arguments and the environment."""

_given = os.environ | {"OMP_NUM_THREADS": "1"}
"""The environment before any test has changed it."""
_line: socket.socket | None = None
"""To the process that is copied, a child of this one."""
_copied: subprocess.Popen | None = None
"""That process; None where this one is a fork itself."""


class Process(subprocess.Popen):
    """`subprocess.Popen`. A command of this laboratory is forked."""

    def __init__(self, args: Any, *more: Any, start_new_session: bool = False, **options: Any) -> None:
        self._session = start_new_session
        super().__init__(args, *more, start_new_session=start_new_session, **options)

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest) -> None:
        words = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
        environment = dict(os.environ if env is None else env)
        threads = environment.get("OMP_NUM_THREADS")
        ours = LINUX and words[:1] == [sys.executable] and (words[1:2] in SCRIPTS or words[1:3] in MODULES)
        if not ours or preexec_fn or pass_fds or threads != "1":
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        pipes = rest[3:9]
        streams = [given if given != -1 else own for own, given in zip((0, 1, 2), (pipes[0], *pipes[3::2]), strict=True)]
        self.pid = _forked([words[1:], os.path.abspath(cwd or "."), environment, self._session], streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def run(*words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a script of this repository and its arguments; what it printed is text."""
    with Process([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        said = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, *said)


def _forked(request: list[Any], streams: list[int]) -> int:
    """The process number of a new child of this process."""
    global _line, _copied
    if _line is None:
        _line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            atexit.register(_part)
            _copied = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=_given, **pipes
            )
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # the child of one that has ended becomes this process's own
    try:
        socket.send_fds(_line, [json.dumps(request).encode()], streams)
        answer = _line.recv(LONGEST)
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    if not answer:
        raise RuntimeError(f"the process that is copied has ended: {_copied.stderr.read() if _copied else ''}")
    return int(answer)


def _part() -> None:
    """Nobody will ask any more."""
    if _line and _copied:
        _line.close()
        _copied.communicate()


def _serve(line: socket.socket) -> None:
    """Forks a process for each request, until nobody asks any more. In a forked process it returns when the command has."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        message, streams, _, _ = socket.recv_fds(line, LONGEST, 3)
        if not message:
            os._exit(0)
        assert len(os.listdir("/proc/self/task")) == 1
        told, tells = os.pipe()
        middle = os.fork()
        if middle == 0:
            number = os.fork()
            if number == 0:
                signal.signal(signal.SIGINT, interrupt)
                for end in (line.detach(), told, tells):
                    os.close(end)
                return _become(*json.loads(message), streams)
            os.write(tells, str(number).encode())
            os._exit(0)
        os.waitpid(middle, 0)
        line.send(os.read(told, 20))
        for end in (*streams, told, tells):
            os.close(end)


def _become(words: list[str], folder: str, environment: dict[str, str], session: bool, streams: list[int]) -> None:
    """Runs the command as Python would. Before that it forks a process that this one can have copied."""
    global _line
    _line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        _line.close()
        for stream in streams:
            os.close(stream)
        return _serve(theirs)
    theirs.close()
    if session:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _as_started(folder if words[0] == "-m" else str(Path(words[0]).parent), environment)
    _run(words)


def _run(words: list[str]) -> None:
    """Exits as Python does. Any exception but SystemExit is left to Python."""
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            del sys.modules[words[1]]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        code = ended.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left but to free memory, which takes a second


def _as_started(folder: str, environment: dict[str, str]) -> None:
    """What Python and modules take from the command and the environment, or draw by chance, as they start."""
    import numpy as np
    from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

    paths = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = list(dict.fromkeys([folder, *paths, *sys.path[1:]]))
    subprocess.Popen = Process
    rank_zero_only.rank = _get_rank() or 0
    np.random.seed()  # noqa: NPY002 - the generator that others may draw from


def _import_all() -> None:
    import ddpm_lab

    for module in pkgutil.walk_packages(ddpm_lab.__path__, "ddpm_lab."):
        importlib.import_module(module.name)
    for name in ("sklearn.datasets", "wandb", "matplotlib.pyplot"):
        importlib.import_module(name)


if __name__ == "__main__":
    _import_all()
    gc.freeze()
    sys.modules["forked"] = sys.modules["__main__"]
    _serve(socket.socket(fileno=int(sys.argv[1])))
