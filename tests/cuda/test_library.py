"""The CUDA library as it is built, on a machine without a GPU: it loads, and registers what the schemas declare."""

import shutil
import subprocess
import sys

import pytest

from deltaconv_kernels import native

LIBRARY = native.DIRECTORY / "libdeltaconv_cuda.so"

# The one symbol that only a torch with CUDA has: which stream is current.
STAND_IN = "int aoti_torch_get_current_cuda_stream(int device, void** stream) { *stream = 0; return 0; }"

LOAD = """
import ctypes, sys, torch
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
import deltaconv_kernels
torch.ops.load_library(sys.argv[2])
for name in ("pyramid_cuda", "pyramid_backward_cuda", "block_cuda"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"deltaconv::{name}", "CUDA"), name
"""


def test_it_needs_nothing_but_torch_and_registers_its_operators(tmp_path):
    compiler = shutil.which("cc")
    if not LIBRARY.exists() or compiler is None:
        pytest.skip(f"{LIBRARY.name} was not built (no nvcc), or there is no C compiler")
    (tmp_path / "stand_in.c").write_text(STAND_IN)
    stand_in = tmp_path / "stand_in.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", stand_in, tmp_path / "stand_in.c"], check=True)
    result = subprocess.run([sys.executable, "-c", LOAD, stand_in, LIBRARY], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
