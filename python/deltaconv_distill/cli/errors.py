"""Mistakes of the caller, told in one line instead of a traceback."""


class UserError(Exception):
    """What the user asked for cannot be done; the message says which argument, what was expected and what came."""
