"""The CUDA library as it is built, beside the torch that is here: it loads, registers its operators, exports nothing.

tools/check_wheel.sh runs these tests beside a torch with CUDA too, which has the symbols that a CPU torch lacks.
"""

import shutil
import subprocess
import sys

import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels import native

LIBRARY = native.DIRECTORY / "libdeltaconv_cuda.so"
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY.name} was not built (no nvcc)")

LOAD = """
import sys, torch
import deltaconv_kernels
torch.ops.load_library(sys.argv[1])
for name in ("pyramid_cuda", "pyramid_backward_cuda", "block_cuda"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"deltaconv::{name}", "CUDA"), name
try:
    torch.ops.deltaconv.cuda_architecture(0)
except RuntimeError as error:
    print(error)
"""


def load():
    """In a process of its own: its output."""
    result = subprocess.run([sys.executable, "-c", LOAD, LIBRARY], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_beside_a_cpu_torch_it_loads_and_says_what_torch_lacks():
    assert load().strip() == "torch has not loaded libtorch_cuda.so; is this a torch with CUDA?"


@pytest.mark.skipif(
    torch.version.cuda is None, reason="this torch has no CUDA: tools/check_wheel.sh takes one that has"
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what is said without a GPU")
def test_beside_a_cuda_torch_it_loads_and_misses_the_gpu_alone():
    assert load().strip() == "no CUDA device was found"
    assert native.why_not_loaded("cuda") is None
    assert dk.backends()["cuda"] == dk.BackendStatus(False, "no CUDA device was found")


def symbols(which):
    """Names of the dynamic symbols, with their kinds."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    lines = subprocess.run(
        ["nm", "-DC", which, LIBRARY], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line.split(maxsplit=2 if which == "--defined-only" else 1)[-2:] for line in lines]


def test_it_exports_nothing_of_its_own():
    """Two copies in one process would share what they export: state, kernels, the CUDA runtime."""
    own = [name for _, name in symbols("--defined-only") if "deltaconv" in name or name.startswith(("cuda", "__cuda"))]
    assert own == []


def test_it_asks_the_loader_for_nothing_of_cuda():
    assert [name for _, name in symbols("--undefined-only") if "cuda" in name] == ["aoti_torch_device_type_cuda"]


def test_a_failure_to_load_is_kept_with_what_the_loader_said(tmp_path, monkeypatch):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "broken.c"
    source.write_text("int nobody_has_this(void);\nint call(void) { return nobody_has_this(); }\n")
    library = tmp_path / "libdeltaconv_cpu.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-z,now", "-o", library, source], check=True)
    monkeypatch.setattr(native, "DIRECTORY", tmp_path)
    native.why_not_loaded.cache_clear()
    try:
        reason = native.why_not_loaded("cpu")
    finally:
        native.why_not_loaded.cache_clear()
    assert "libdeltaconv_cpu.so could not be loaded" in reason
    assert "undefined symbol: nobody_has_this" in reason
