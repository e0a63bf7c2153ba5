"""What the denoising benchmark tells beside its times: the break-even resolution and the memory."""

import pytest
import torch
from break_even import break_even
from peak_memory import peak_memory

MEBIBYTE = 2**20


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({}, "not measured"),
        ({128: 1.2, 256: 1.5}, "below 128"),
        ({256: 0.5, 128: 0.7}, "above 256"),
        ({100: 0.5, 400: 2.0}, "200"),  # a power law through both: ratio = size / 200
        ({64: 1.1, 100: 0.5, 400: 2.0, 800: 4.0}, "200"),  # from there on, not where noise crossed first
    ],
)
def test_break_even(ratios: dict[int, float], expected: str) -> None:
    assert break_even(ratios) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its own memory is counted")
def test_peak_memory_of_the_process() -> None:
    """What a call allocates and gives back again, from one moment to the next; not what was there before."""
    held = torch.zeros(256 * MEBIBYTE, dtype=torch.uint8)
    _assert_that_64_mebibytes_are_counted()
    assert held.numel() == 256 * MEBIBYTE


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its own memory is counted")
def test_peak_memory_of_a_call_that_reuses_freed_memory() -> None:
    """malloc keeps small blocks when they are freed: here 192 MiB in a row, which a later block pins in the heap."""
    for _ in range(3):  # a block of 31 MiB, freed, teaches glibc to keep blocks up to that size
        torch.ones(31 * MEBIBYTE, dtype=torch.uint8)
    freed = [torch.ones(16 * MEBIBYTE, dtype=torch.uint8) for _ in range(12)]
    pin = torch.ones(20 * MEBIBYTE, dtype=torch.uint8)
    del freed
    _assert_that_64_mebibytes_are_counted()
    assert pin.numel() == 20 * MEBIBYTE


def _assert_that_64_mebibytes_are_counted() -> None:
    def allocate() -> None:
        torch.ones(64 * MEBIBYTE, dtype=torch.uint8)
        torch.ones(32 * MEBIBYTE, dtype=torch.uint8)

    peak = peak_memory(allocate)
    if peak is None:
        pytest.skip("this system has no /proc/self/clear_refs")
    assert 60 * MEBIBYTE <= peak <= 100 * MEBIBYTE
