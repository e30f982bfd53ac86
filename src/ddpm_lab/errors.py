"""The one exception for a user's mistake: printed as its message alone, without a traceback, exit code 2."""


class UserError(Exception):
    """Says which key, what came, what is allowed, and what to type instead."""
