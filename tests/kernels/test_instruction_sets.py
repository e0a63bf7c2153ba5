"""The CPU kernels' instruction set is the widest that the machine has, as the system itself tells it."""

import os
from pathlib import Path

import pytest
import torch

from deltaconv_kernels import backends

AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}


def test_the_widest_of_this_machine_is_chosen():
    if "DELTACONV_CPU_ISA" in os.environ:
        pytest.skip("DELTACONV_CPU_ISA forces an instruction set")
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    flags = next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("needs the flags of an x86 processor in /proc/cpuinfo")
    assert backends()["cpu"].reason is None
    expected = "avx512" if flags >= AVX512 else "avx2" if flags >= AVX2 else "baseline"
    assert torch.ops.deltaconv.cpu_isa() == expected
