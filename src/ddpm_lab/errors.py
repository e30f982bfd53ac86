"""The one exception for a user's mistake: printed as its message alone, without a traceback, exit code 2."""


class UserError(Exception):
    """Says which key, what came, what is allowed, and what to type instead."""

    code = 2


class ToldElsewhere(UserError):
    """Process 0 has said what went wrong: this process ends without a word, with the same exit code."""

    def __init__(self, code: int) -> None:
        super().__init__("process 0 stopped, and said why")
        self.code = code
