"""Mistakes of the caller, told in one line instead of a traceback."""


class UserError(Exception):
    """What the user asked for cannot be done; the message says which argument, what was expected and what came."""


def flagged(error: Exception, pipe_flag: str) -> UserError:
    """The error of a setting, "name: …", under its flag; of the pipeline, "pipe…: …", under the flag that named it."""
    text = str(error)
    return UserError(f"{pipe_flag}: {text}" if text.startswith("pipe") else f"--{text}")
