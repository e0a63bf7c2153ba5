"""Loads the native libraries that CMake built, once, and keeps why one could not be loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from . import ops  # noqa: F401  the schemas must exist before a library implements them
from .namespace import NAMESPACE, operators

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
        # torch's message has only the path; what the loader said (an undefined symbol, a missing library) is its cause.
        return f"{path.name} could not be loaded: {error.__cause__ or error}"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::pyramid_{backend}", backend.upper()):
        return f"{path.name} holds no pyramid kernels in this version"
    return None


@cache
def why_not_on_gpu(index: int) -> str | None:
    """None if the loaded CUDA library's kernels can run on this GPU, else the reason. Asked once for each GPU."""
    try:
        gpu_architecture(index)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return f"GPU {index}: {reason}" if torch.cuda.device_count() else reason
    return None if torch.cuda.device_count() else "torch finds no CUDA device"


def gpu_architecture(index: int) -> int:
    """The architecture of the code that a GPU runs, such as 90 for sm_90.

    Raises:
        RuntimeError: why it runs none: no GPU, an old driver, or nothing compiled in that it can run.
    """
    return operators.cuda_architecture(index)
