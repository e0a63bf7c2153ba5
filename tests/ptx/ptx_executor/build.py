"""Builds the interpreter, native/, as a Python module."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import native_module

SOURCES = Path(__file__).parent / "native"


@cache
def interpreter():
    """The module, compiled if it is not."""
    return native_module.load(native_module.build(SOURCES, "ptx-interpreter"), "ptx_interpreter")
