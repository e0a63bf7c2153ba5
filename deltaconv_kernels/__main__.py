"""`python -m deltaconv_kernels`: what can run here and why the rest cannot; with --check, whether it computes right."""

from __future__ import annotations

import argparse
import sys

import torch

from . import __version__, native
from .backends import backends
from .check import print_check
from .namespace import operators


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deltaconv_kernels", description=__doc__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="run every backend on its devices against float64, about a minute; exit with 1 where one is off",
    )
    if parser.parse_args().check:
        return 0 if print_check() else 1
    print("\n".join(describe()))
    return 0


def describe() -> list[str]:
    """Versions, GPUs with the code that they run, and every backend with the reason where it cannot run."""
    lines = [f"deltaconv-kernels  {__version__}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}"]
    status = backends()
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        runs = "no code of the cuda backend"
        if native.why_not_loaded("cuda") is None and native.why_not_on_gpu(index) is None:
            runs = f"runs code for sm_{native.gpu_architecture(index)}"
        lines.append(f"GPU {index}  {gpu.name}, compute capability {gpu.major}.{gpu.minor}, {runs}")
    for name, backend in status.items():
        verdict = "can run" if backend.available else "cannot run"
        lines.append(f"{name:<10} {verdict}" + (f": {backend.reason}" if backend.reason else ""))
    if status["cpu"].available:
        lines.append(f"the cpu backend uses {operators.cpu_isa()}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
