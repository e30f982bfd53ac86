"""What a message must say, whatever its other words."""

import re


def naming(*parts: str) -> str:
    """A pattern for messages that contain all the parts."""
    return "(?s)" + "".join(f"(?=.*{re.escape(part)})" for part in parts)
