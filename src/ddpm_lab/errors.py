"""The one exception for a user's mistake: printed as its message alone, without a traceback, exit code 2."""

import importlib.util


class UserError(Exception):
    """Says which key, what came, what is allowed, and what to type instead."""

    code = 2


class ToldElsewhere(UserError):
    """Process 0 has said what went wrong: this process ends without a word, with the same exit code."""

    def __init__(self, code: int) -> None:
        super().__init__("process 0 stopped, and said why")
        self.code = code


def require(package: str, extra: str, before: str = "", after: str = "") -> None:
    """Raises UserError where the package of an extra is not installed. Does not import it."""
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{before}the package {package.replace('_', '-')} is not installed: pip install 'ddpm-lab[{extra}]'{after}"
        )


def require_for_logger(package: str) -> None:
    """The same of a logger, whose extra has the name of its package."""
    require(package, package, f"logger={package}: ", ", or use logger=csv")
