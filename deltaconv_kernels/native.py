"""Loads the native libraries that CMake built, once, and keeps why one could not be loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from . import ops  # noqa: F401  the schemas must exist before a library implements them

DIRECTORY = Path(__file__).parent / "_native"


@cache
def why_not_loaded(backend: str) -> str | None:
    """Load the library of ``backend`` ("cpu" or "cuda"); None if that worked, else the reason."""
    if backend == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    path = DIRECTORY / f"libdeltaconv_{backend}.so"
    if not path.exists():
        return f"{path.name} was not built (the build prints why; see docs/building.md)"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} could not be loaded: {error}"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"deltaconv::pyramid_{backend}", backend.upper()):
        return f"{path.name} holds no pyramid kernels in this version"
    return None
