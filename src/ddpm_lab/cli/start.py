"""The commands as they are typed: signals are heard before anything is imported that takes time."""

import importlib

from ddpm_lab.signals import stopping


def train() -> None:
    _start("train")


def evaluate() -> None:
    _start("evaluate")


def sample() -> None:
    _start("sample")


def figures() -> None:
    _start("figures")


def compare() -> None:
    _start("compare")


def convert() -> None:
    _start("convert")


def dashboard() -> None:
    _start("dashboard")


def _start(command: str) -> None:
    with stopping():
        module = importlib.import_module(f"ddpm_lab.cli.{command}")
    module.main()
