"""What the compiler made of the CUDA kernels, read from the library: no spills, within what the plan counts on."""

import re
from pathlib import Path

import cuda_floors
import cuda_resources
import pytest

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
REGISTERS_OF_A_MULTIPROCESSOR = 65536
RESERVED_SHARED = 1024  # by the system, in every block: kReservedShared of plan/plan.cpp


@pytest.fixture(scope="module")
def kernels():
    if not cuda_resources.LIBRARY.exists():
        pytest.skip(f"{cuda_resources.LIBRARY.name} was not built: no nvcc, or DELTACONV_CUDA=off")
    if cuda_resources.cuobjdump() is None:
        pytest.skip("no cuobjdump, neither on the PATH nor in a package triton")
    return cuda_resources.read_kernels()


def constant(header: str, name: str) -> int:
    found = re.search(rf"\b{name} = (\d+)", (SOURCES / header).read_text())
    assert found, f"{header} has no constant {name}"
    return int(found[1])


def test_the_library_holds_every_kernel_for_every_architecture(kernels):
    by_architecture = {}
    for kernel in kernels:
        variants = by_architecture.setdefault(kernel.architecture, [])
        variants.append((kernel.name, kernel.dtype, kernel.variant))
    first, *others = [sorted(variants) for variants in by_architecture.values()]
    assert len(set(first)) == len(first)
    assert all(other == first for other in others)
    assert {"cuda_cores::PyramidForward", "tensor_cores::PyramidForward"} <= {name for name, _, _ in first}


def test_nothing_is_spilled(kernels):
    assert not [kernel for kernel in kernels if kernel.stack or kernel.local]


def test_registers_are_those_that_the_plan_counts_on(kernels):
    counted = constant("layout/register_tile.h", "kMaxRegisters"), constant("layout/banded_tile.h", "kBandedRegisters")
    threads = constant("layout/register_tile.h", "kMaxThreads"), constant("layout/banded_tile.h", "kBandedThreads")
    assert 2 * threads[0] * counted[0] == threads[1] * counted[1] == REGISTERS_OF_A_MULTIPROCESSOR
    for kernel in kernels:
        if kernel.name == "cuda_cores::PyramidBackwardWeight":  # the plan asks for no more than that one block fits
            assert kernel.registers * threads[0] <= REGISTERS_OF_A_MULTIPROCESSOR, kernel
        else:
            assert kernel.registers <= counted[not kernel.name.startswith("cuda_cores")], kernel


def test_all_shared_memory_is_the_plans(kernels):
    assert constant("plan/plan.cpp", "kReservedShared") == RESERVED_SHARED
    assert all(kernel.static_shared in (0, RESERVED_SHARED) for kernel in kernels)


def test_the_table_in_the_documentation_is_this_one(kernels):
    documented = cuda_resources.documented_table("cuda_resources")
    held = {f"sm_{kernel.architecture}" for kernel in kernels}
    if held != set(re.findall(r"sm_\d+", documented)):
        pytest.skip(f"the library was built for {', '.join(sorted(held))} alone")
    assert documented == cuda_resources.table(kernels), (
        "python tools/cuda_kernels/cuda_resources.py --write updates docs/cuda/registers.md"
    )


def test_the_floors_in_the_documentation_are_these():
    assert cuda_resources.documented_table("cuda_floors") == cuda_floors.table()
