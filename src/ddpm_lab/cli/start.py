"""The commands as they are typed: signals are heard before anything is imported that takes time."""

import importlib
import sys

from ddpm_lab.signals import Stopped, stopping


def train() -> None:
    _start("train")


def evaluate() -> None:
    _start("evaluate")


def compare() -> None:
    _start("compare")


def dashboard() -> None:
    _start("dashboard")


def _start(command: str) -> None:
    try:
        with stopping():
            module = importlib.import_module(f"ddpm_lab.cli.{command}")
    except Stopped as stop:
        print("\nstopped", file=sys.stderr)
        sys.exit(stop.code)
    module.main()
