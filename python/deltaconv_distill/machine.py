"""What a measurement was made on: processor, GPU, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

DISTRIBUTION = "deltaconv-kernels"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "triton")
# The instruction sets that decide how fast the operator and PyTorch's own kernels are.
NOTABLE_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "avx512_fp16", "avx512_vnni",
    "amx_tile", "amx_bf16", "neon", "asimd", "asimdhp", "sve", "bf16",
)  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """Everything a reader needs to judge a figure, ready for JSON."""
    return {"package": package_version(), "commit": commit(), "versions": versions(), "cpu": cpu(), "gpus": gpus()}


def package_version() -> str | None:
    return _version_of(DISTRIBUTION)


def versions() -> dict[str, str | None]:
    """Python, the system, and the libraries that matter; None for one that is not installed."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: _version_of(name) for name in LIBRARIES},
    }


def cpu() -> dict[str, Any]:
    name, flags = _proc_cpuinfo()
    return {
        "name": name or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "features": [feature for feature in NOTABLE_FEATURES if feature in flags],
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "logical_cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def gpus() -> list[dict[str, Any]]:
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "name": gpu.name,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "memory_gib": round(gpu.total_memory / 2**30, 1),
        }
        for gpu in found
    ]


def commit() -> str | None:
    """The project's commit where the package runs from a checkout (with "+changes" if it was edited), else None."""
    here = Path(__file__).parent
    top = _git(here, "rev-parse", "--show-toplevel")
    if not top or not (Path(top) / "python" / "deltaconv_distill").is_dir():
        return None
    head = _git(here, "rev-parse", "HEAD")
    changes = _git(Path(top), "status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if head and changes else head


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _proc_cpuinfo() -> tuple[str | None, set[str]]:
    """Model name and feature flags, from Linux; elsewhere (None, empty)."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return None, set()
    entries = [line.partition(":") for line in path.read_text().splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in reversed(entries)}
    return facts.get("model name"), set((facts.get("flags") or facts.get("Features") or "").split())
