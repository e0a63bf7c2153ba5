"""What must be true of an installed library, whatever the torch beside it: it is loaded, and misses a GPU at most.

With the JSON of tools/gpu_check.sh as argument: no part of it failed, and those that did not run lack a GPU alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import deltaconv_kernels as dk

OPERATORS = {
    "CPU": ("pyramid_cpu", "pyramid_backward_cpu"),
    "CUDA": ("pyramid_cuda", "pyramid_backward_cuda", "block_cuda"),
}


def main() -> int:
    faults = faults_of_parts(Path(sys.argv[1])) if len(sys.argv) > 1 else faults_of_backends()
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


def faults_of_backends() -> list[str]:
    statuses = dk.backends()
    print(f"torch {torch.__version__}, {dk.__file__}")
    for name, status in statuses.items():
        print(f"  {name}: {status.reason or 'available'}")
    faults = [] if statuses["cpu"].available else [f"the cpu backend: {statuses['cpu'].reason}"]
    if torch.version.cuda is None:
        keys = ("CPU",)
    else:
        keys = ("CPU", "CUDA")
        if not torch.cuda.is_available() and statuses["cuda"].reason != "no CUDA device was found":
            faults.append(f"the cuda backend misses more than a GPU: {statuses['cuda'].reason}")
        if torch.cuda.is_available() and not statuses["cuda"].available:
            faults.append(f"the cuda backend: {statuses['cuda'].reason}")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    faults += [
        f"deltaconv::{name} has no {key} kernel"
        for key in keys
        for name in OPERATORS[key]
        if not has_kernel(f"deltaconv::{name}", key)
    ]
    return faults


def faults_of_parts(path: Path) -> list[str]:
    outcomes = json.loads(path.read_text())["parts"]
    allowed = ("done",) if torch.cuda.is_available() else ("not run",)
    return [
        f"gpu_check's part {name}: {outcome['status']}, {outcome.get('reason')}"
        for name, outcome in outcomes.items()
        if outcome["status"] not in allowed or "no GPU" not in outcome.get("reason", "no GPU")
    ]


if __name__ == "__main__":
    sys.exit(main())
