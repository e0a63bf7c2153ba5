"""Whether this machine computes what it should: every backend that can run, on each of its devices, against float64.

`python -m deltaconv_kernels --check` prints it; the first thing to run on a machine that nobody has reported yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import reference
from .backends import backends, dtypes_of, use_backend, why_not_on
from .block import DeltaConvBlock
from .fusing import FUSED_DTYPES
from .ops import pyramid
from .testing import (
    ERROR_BUDGET,
    Case,
    Shape,
    make_case,
    oracle,
    poisoned_outputs,
    relative_error,
    run_with_gradients,
)

# They reach every compiled kernel size, both paths of the CUDA kernels with each of their tiles, and every kind of tail
# (tests/kernels/test_machine_check.py). Few channels: most of the time goes to the float64 yardstick.
PROBLEMS = (
    Shape(1, 1, 1, 2, 1, (1,)),
    Shape(1, 2, 2, 4, 17, (1, 2)),
    Shape(2, 8, 8, 32, 3),
    Shape(1, 5, 13, 34, 5, (1, 2, 3)),
    Shape(2, 13, 5, 18, 7, (2, 4)),
    Shape(1, 67, 180, 4, 3, (1, 2, 3)),
    Shape(2, 16, 16, 64, 7),
    Shape(1, 33, 29, 16, 9, (1, 2, 3)),
    Shape(1, 20, 24, 16, 11, (1, 4)),
    Shape(1, 40, 40, 16, 13),
    Shape(1, 30, 26, 16, 15),
    Shape(1, 24, 20, 16, 21, (1, 3)),
    Shape(1, 24, 20, 16, 25, (1,)),
    Shape(1, 19, 23, 8, 31, (1, 4)),
    Shape(1, 64, 96, 32, 9),
    Shape(8, 32, 32, 32, 5),
)
LARGEST_TRITON_KERNEL = 5  # larger ones compile for longer than a minute in all; tests/kernels has them
BLOCKS = (Shape(2, 32, 32, 160, 9), Shape(1, 13, 11, 48, 5), Shape(2, 16, 16, 640, 5))


@dataclass(frozen=True)
class Row:
    """One problem on one device: the largest of the relative errors of result and gradients, and where it is."""

    backend: str
    device: str
    problem: str
    dtype: torch.dtype
    error: float
    where: str
    same_bits: bool
    milliseconds: float  # of the second run, forward and backward

    @property
    def verdict(self) -> str:
        if not self.error <= ERROR_BUDGET[self.dtype]:
            return f"OFF: {self.where} may be off by {ERROR_BUDGET[self.dtype]:.0e}"
        return "ok" if self.same_bits else "OFF: a second run gave other bits"

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.backend:<9} {self.device:<7} {self.problem:<34} {kind:<8} {self.error:8.1e} "
            f"{self.milliseconds:9.2f} ms  {self.verdict}"
        )


HEADING = f"{'backend':<9} {'device':<7} {'problem':<34} {'dtype':<8} {'error':>8} {'time':>9}     verdict"


def check() -> Iterator[Row]:
    """Check this machine, a row at a time.

    Problems are those of ``PROBLEMS`` with either gate, forward and every gradient, in every dtype of the backend, and
    on CUDA the fused block of ``BLOCKS`` at inference. Errors are ‖out - ref‖ / ‖ref‖ against the reference in float64
    on the CPU; the budgets are the contract's. Every problem is computed twice, with uninitialised memory full of NaN.
    """
    for name, device in runnable():
        for case_name, case in _cases(name):
            with use_backend(name):
                yield _row(name, device, case_name, case)
        if name == "cuda":
            yield from _blocks(device)


def runnable() -> list[tuple[str, torch.device]]:
    """Every backend on every device where it can run."""
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    return [(name, device) for name in backends() for device in devices if why_not_on(name, device) is None]


def _cases(backend: str) -> Iterator[tuple[str, Case]]:
    for shape in PROBLEMS:
        if backend == "triton" and shape.kernel_size > LARGEST_TRITON_KERNEL:
            continue
        for gate in reference.GATES:
            for dtype in dtypes_of(backend):
                if backend == "reference" and dtype == torch.float64:
                    continue  # the yardstick itself
                yield f"{shape} {gate}", _case(shape, dtype, gate)


@cache
def _case(shape: Shape, dtype: torch.dtype, gate: str) -> Case:
    return make_case(shape, dtype, gate=gate, residual=gate == "sigmoid")


@cache  # the backends share it
def _expected(case: Case) -> dict[str, Tensor]:
    return oracle(case)


def _row(backend: str, device: torch.device, name: str, case: Case) -> Row:
    on_device = case.to(device)
    expected = _expected(case)
    return _judge(backend, device, name, case.x.dtype, lambda: run_with_gradients(pyramid, on_device), expected)


def _blocks(device: torch.device) -> Iterator[Row]:
    for shape in BLOCKS:
        for dtype in FUSED_DTYPES:
            torch.manual_seed(0)
            block = DeltaConvBlock(2 * shape.inter, shape.kernel_size, shape.factors).to(dtype)
            x, residual = torch.randn(2, shape.batch, shape.height, shape.width, 2 * shape.inter).to(dtype)
            with torch.no_grad():
                with use_backend("reference"):
                    expected = {"y": block.double()(x.double(), residual.double())}
                block, x, residual = block.to(device, dtype), x.to(device), residual.to(device)
                run = _fused(block, x, residual)
                yield _judge("cuda", device, f"block {shape}", dtype, run, expected)


def _fused(block: DeltaConvBlock, x: Tensor, residual: Tensor) -> Callable[[], dict[str, Tensor]]:
    def run() -> dict[str, Tensor]:
        with use_backend("cuda"):
            if (reason := block.why_not_fused(x, residual)) is not None:
                raise RuntimeError(f"the block was to be fused: {reason}")
            return {"y": block(x, residual)}

    return run


def _judge(
    backend: str,
    device: torch.device,
    name: str,
    dtype: torch.dtype,
    run: Callable[[], dict[str, Tensor]],
    expected: dict[str, Tensor],
) -> Row:
    with poisoned_outputs():
        first, _ = _timed(run, device)
        second, milliseconds = _timed(run, device)
    errors = {key: relative_error(first[key].cpu(), expected[key]) for key in expected}
    where = max(errors, key=errors.__getitem__)
    same = all(torch.equal(first[key], second[key]) for key in expected)
    return Row(backend, str(device), name, dtype, errors[where], where, same, milliseconds)


def _timed(run: Callable[[], dict[str, Tensor]], device: torch.device) -> tuple[dict[str, Tensor], float]:
    _synchronize(device)
    start = time.perf_counter()
    result = run()
    _synchronize(device)
    return result, 1e3 * (time.perf_counter() - start)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def print_check(rows: Iterator[Row] | Sequence[Row] | None = None) -> bool:
    """Print a row for each problem and a summary; whether every row is right."""
    print(HEADING, flush=True)
    wrong = total = 0
    for row in check() if rows is None else rows:
        print(row, flush=True)
        total += 1
        wrong += not row.ok
    print(
        f"{total} problems, {wrong} off" if wrong else f"{total} problems, all within their budgets, equal bits twice"
    )
    for name, status in backends().items():
        if status.reason is not None:
            print(f"not checked: {name}: {status.reason}")
    return not wrong
