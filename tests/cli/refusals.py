"""What preflight answers to a mistake."""

import pytest

from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        preflight(argv)
    return str(error.value)


def refuses(line: str, *names: str) -> None:
    """In one line that begins with the argument and holds these words."""
    message = refusal(*line.split())
    assert [name for name in names if name not in message] == [], message
    assert "\n" not in message
