"""The exception for a user's mistake: printed as its message alone, without a traceback, exit code 2."""

import importlib.util

from ddpm_lab.plain import visible


class UserError(Exception):
    """One line with the key, its value, the allowed values, and what to type instead. A terminal obeys none of it."""

    code = 2

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(visible, message.split("\n"))))


class AlreadyReported(UserError):
    """Process 0 has reported the error: this process ends with the same exit code and no message."""

    def __init__(self, code: int) -> None:
        super().__init__("process 0 stopped and reported why")
        self.code = code


def require(package: str, extra: str, before: str = "", after: str = "") -> None:
    """Raises UserError where the package of an extra is not installed. Does not import it."""
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{before}the package {package.replace('_', '-')} is not installed: pip install 'ddpm-lab[{extra}]'{after}"
        )


def require_for_logger(package: str) -> None:
    """`require` for a logger, whose extra is named after its package."""
    require(package, package, f"logger={package}: ", ", or use logger=csv")
