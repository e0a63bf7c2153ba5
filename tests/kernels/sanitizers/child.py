"""`python child.py LIBRARIES TASK` with the CPU library of one folder.

`grid`: the operator's grid, forward and every gradient against the reference; `threads`: the part of it that is large
enough for several threads; `fuzz`: random problems; `overrun` and `misaligned`: calls that break what the kernels rely
on, which a sanitizer must report.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from deltaconv_kernels import backends, native, pyramid, use_backend
from deltaconv_kernels.testing import Shape, assert_matches_oracle, make_case

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzzing import fuzz
from problems import DTYPES, POOL_SIZES, SIZES

SEVERAL_THREADS = [Shape(2, 33, 31, 48, 7), Shape(1, 47, 150, 34, 3, (1, 2, 3)), Shape(1, 24, 160, 16, 17)]


def run_threads() -> None:
    for shape in SEVERAL_THREADS:
        assert_matches_oracle(make_case(shape, residual=True))
    for dtype in DTYPES:
        assert_matches_oracle(make_case(SEVERAL_THREADS[0], dtype, gate="sigmoid", bias=False))


def run_grid() -> None:
    for shape in SIZES + POOL_SIZES:
        assert_matches_oracle(make_case(shape, residual=True))
    run_threads()


def run_on_wrong_memory(length: float, offset: int) -> None:
    """x in memory of its own, of `length` times the bytes that it needs, from byte `offset` on."""
    case = make_case(Shape(1, 32, 32, 34, 3))
    size = case.x.numel() * case.x.element_size()
    allocate = ctypes.CDLL(None).malloc
    allocate.restype = ctypes.c_void_p
    start = allocate(ctypes.c_size_t(int(length * size)))
    memory = (ctypes.c_char * size).from_address(start + offset)
    pyramid(torch.frombuffer(memory, dtype=case.x.dtype).view(case.x.shape), *case.arguments[1:])


TASKS = {
    "grid": run_grid,
    "threads": run_threads,
    "fuzz": lambda: fuzz(100),
    "overrun": lambda: run_on_wrong_memory(0.5, 0),
    "misaligned": lambda: run_on_wrong_memory(2, 2),
}

if __name__ == "__main__":
    native.DIRECTORY = Path(sys.argv[1])
    torch.set_num_threads(1)
    reason = backends()["cpu"].reason
    if reason is not None:
        raise SystemExit(reason)
    print(torch.ops.deltaconv.cpu_isa(), flush=True)
    with use_backend("cpu"):
        TASKS[sys.argv[2]]()
