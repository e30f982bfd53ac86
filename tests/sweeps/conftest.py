"""Fixtures that several files share."""

from pretend_sweep import heard, run  # noqa: F401
