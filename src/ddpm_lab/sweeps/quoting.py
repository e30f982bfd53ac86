"""Values on a Hydra command line, quoted if they would be read as anything but this text."""

import re
from pathlib import Path


def argument(key: str, text: str | Path) -> str:
    """`key=text`, in the quotes of Hydra's grammar if it needs them: a backslash counts as one only before a quote."""
    text = str(text)
    if _is_plain(text):
        return f"{key}={text}"
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"{key}='{escaped}'"


def _is_plain(text: str) -> bool:
    """Whether Hydra reads the bare text as a string: no special character, no number, no boolean, no null."""
    try:
        float(text)
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9_/.+@%-]+", text)) and text.lower() not in ("true", "false", "null")
    return False
