"""What this GPU reaches: a copy through its memory, and matrix products; the yardsticks for every other figure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from recording import record

COPIED_BYTES = 4 * 2**30
SIZE = 8192
ROUNDS = 20


def median_seconds(function: Callable[[], object]) -> float:
    """On the device, by events, after three warm-ups."""
    for _ in range(3):
        function()
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return sorted(times)[ROUNDS // 2]


def copy_rate() -> float:
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / median_seconds(lambda: target.copy_(source))


def product_rate(dtype: torch.dtype) -> float:
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * SIZE**3 / median_seconds(lambda: a @ b)


def main() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    record(ceiling="copy", bytes_per_second=copy_rate())
    for dtype in (torch.float32, torch.bfloat16):
        record(ceiling=f"matmul {str(dtype).removeprefix('torch.')}", flops_per_second=product_rate(dtype))


if __name__ == "__main__":
    main()
