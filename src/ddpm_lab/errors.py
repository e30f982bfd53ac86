"""The exception for a user's mistake: printed as its message alone, without a traceback, exit code 2."""

import importlib.util
import traceback

from ddpm_lab.plain import visible


class UserError(Exception):
    """One line with the key, its value, the allowed values, and what to type instead. A terminal obeys none of it."""

    code = 2

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(visible, message.split("\n"))))


own_modules: set[str] = set()
"""Of a user's own options."""


def in_own_code(error: BaseException) -> UserError | None:
    """What a user's own option raised, with its name and place, in one line; None for an error of other code."""
    frames = [at for at in traceback.walk_tb(error.__traceback__) if at[0].f_globals.get("__name__") in own_modules]
    if not frames:
        return None
    (frame, line), said = frames[-1], " ".join(str(error).split())
    code = frame.f_code
    place = f"{frame.f_globals['__name__']}.{code.co_qualname} ({code.co_filename}, line {line})"
    return UserError(f"{place}: {type(error).__name__}: {said}")


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
