"""The exception for a user's mistake: printed as its message alone, without a traceback, exit code 2."""

import importlib.util
import traceback

from ddpm_lab.plain import visible


class UserError(Exception):
    """One line with the key, its value, the allowed values, and what to type instead. A terminal obeys none of it."""

    code = 2

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(visible, message.split("\n"))))


own_options: dict[tuple[str, str], str] = {}
"""The key of each option of a user's own, as "net", by its module and its name there."""


def in_own_code(error: BaseException) -> UserError | None:
    """What a user's own option raised, with its key, name and place, in one line; None for an error of other code. The key is
    that of the option which was called last, or those of all options in that module."""
    modules = {module for module, _ in own_options}
    walked = [(str(at.f_globals.get("__name__")), at.f_code, line) for at, line in traceback.walk_tb(error.__traceback__)]
    calls = [call for call in walked if call[0] in modules]
    if not calls:
        return None
    module, code, line = calls[-1]
    options = [(name, called.co_qualname.partition(".")[0]) for name, called, _ in reversed(calls)]
    of_module = sorted({key for (name, _), key in own_options.items() if name == module})
    key = next((own_options[option] for option in options if option in own_options), ", ".join(of_module))
    place = f"{module}.{code.co_qualname} ({code.co_filename}, line {line})"
    return UserError(f"{key}: {place}: {type(error).__name__}: {' '.join(str(error).split())}")


class AlreadyReported(UserError):
    """Another process has reported the error: this one ends with an exit code and no message."""

    def __init__(self, code: int) -> None:
        super().__init__("another process stopped and reported why")
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
