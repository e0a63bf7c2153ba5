"""What the denoising benchmark tells beside its times: the break-even resolution and the memory."""

import pytest
import torch
from break_even import break_even
from peak_memory import peak_memory


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
    mebibyte = 2**20
    held = torch.zeros(256 * mebibyte, dtype=torch.uint8)

    def allocate() -> None:
        torch.ones(64 * mebibyte, dtype=torch.uint8)
        torch.ones(32 * mebibyte, dtype=torch.uint8)

    peak = peak_memory(allocate)
    if peak is None:
        pytest.skip("this system has no /proc/self/clear_refs")
    assert 60 * mebibyte <= peak <= 100 * mebibyte
    assert held.numel() == 256 * mebibyte
