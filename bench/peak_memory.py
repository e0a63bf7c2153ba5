"""How much memory a call takes beside what the process holds already."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what Linux wants in clear_refs to set VmHWM, the highest resident set, back to the present one


def peak_memory(function: Callable[[], object]) -> int | None:
    """Bytes that `function` needed at most: on the GPU where there is one, else resident; None where nothing counts."""
    gc.collect()  # what earlier work left, collected during the call, would hide as much of what the call takes
    _give_free_memory_back()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    if not CLEAR.exists():
        return None
    CLEAR.write_text(RESET_PEAK)
    before = _resident("VmRSS")
    function()
    return max(0, _resident("VmHWM") - before)


def _give_free_memory_back() -> None:
    """What malloc keeps of freed memory: a call that is served from it takes as much, but nothing would grow."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found, f"no {field} in {STATUS}"
    return 1024 * int(found.group(1))
