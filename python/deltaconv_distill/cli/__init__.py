"""The command `deltaconv`."""

from .main import main

__all__ = ["main"]
