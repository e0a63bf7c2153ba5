"""The parts of a check: the build, whether the backends are there and right, then by what is missed most."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

NOT_RUN = 77  # exit code of a part's program that cannot run here, its last line says why; as of Automake's tests
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_check.outcomes")
BENCH = (*PYTEST, "--every-table")  # without it only what the README quotes is measured
SANITIZER_SHAPES = ("sd15-8-k3", "sd15-16-k5")
PROFILED_SHAPES = ("sd15-64-k7", "sdxl-64-k13", "pixart-64-k13")


@dataclass(frozen=True)
class Part:
    """One program of a check: what it is called, the seconds it may take, its command, and what it needs."""

    name: str
    seconds: int
    command: tuple[str, ...]
    needs: tuple[str, ...] = ("gpu",)

    def hindrance(self) -> str | None:
        """Why it cannot run here, or None."""
        return next((reason for need in self.needs if (reason := hindrance(need))), None)


def hindrance(need: str) -> str | None:
    """Why a need, "gpu", "python:module" or a program's name, is not met here, or None."""
    if need == "gpu":
        return None if torch.cuda.is_available() else "no GPU that this torch can use"
    kind, _, module = need.partition(":")
    if kind == "python":
        return None if find_spec(module) else f"the Python package {module} is not installed"
    return None if shutil.which(need) else f"{need} is not on the PATH"


def parts() -> list[Part]:
    """All parts, in order."""
    return [
        Part("build", 300, (sys.executable, "setup.py", "build_ext", "--inplace"), ("gpu", "cmake", "ninja")),
        Part("backends", 60, script("backends")),
        Part("check", 180, script("check")),
        Part("ceilings", 60, script("ceilings")),
        backend_tests("cuda", "tests/cuda/test_cuda_gpu.py", "tests/cuda/test_block_gpu.py"),
        Part("triton-compile", 240, script("precompile"), ("gpu", "python:triton")),
        Part(
            "operator",
            180,
            (*BENCH, "bench/test_gpu.py", "-k", "operator and not compile"),
            ("gpu", "python:pytest_benchmark"),
        ),
        Part("block", 150, (*BENCH, "bench/test_gpu.py", "-k", "block"), ("gpu", "python:pytest_benchmark")),
        *(denoising(model) for model in ("sd15", "sdxl", "pixart-sigma")),
        backend_tests("triton"),
        *(sanitizer(tool, backend) for backend in ("cuda", "triton") for tool in ("memcheck", "racecheck")),
        *(profile(backend) for backend in ("cuda", "triton")),
        Part("kernel-tests", 240, (*PYTEST, "tests/kernels"), ("gpu", "python:pytest")),
        Part("compile", 180, (*BENCH, "bench/test_gpu.py", "-k", "compile"), ("gpu", "python:pytest_benchmark")),
        Part("triton-tune", 420, script("tune"), ("gpu", "python:triton")),
        Part("host", 60, (*BENCH, "bench/test_gpu.py", "-k", "host"), ("gpu", "python:pytest_benchmark")),
    ]


def backend_tests(backend: str, *others: str) -> Part:
    """The operator's grid on the device; `others` are files of tests for this backend alone."""
    selected = "cuda and not triton" if backend == "cuda" else backend  # one test is of CUDA graphs, with either
    command = (*PYTEST, "tests/kernels/test_gpu_backends.py", *others, "-k", selected)
    return Part(f"{backend}-tests", 240, command, ("gpu", "python:pytest"))


def denoising(model: str) -> Part:
    command = (*BENCH, "bench/test_denoising.py", "-k", model)
    return Part(f"denoising-{model}", 150, command, ("gpu", "python:pytest_benchmark", "python:diffusers"))


def sanitizer(tool: str, backend: str) -> Part:
    """The operator on small shapes under compute-sanitizer, which ends with 1 where it finds something."""
    program = script("workload", "--backend", backend, "--shapes", *SANITIZER_SHAPES, "--unpooled")
    command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *program)
    return Part(f"{tool}-{backend}", 150, command, ("gpu", "compute-sanitizer"))


def profile(backend: str) -> Part:
    """Nsight Compute's main sections, of each kernel of the operator. Clocks stay as they are."""
    command = script("profile", "--backend", backend, "--shapes", *PROFILED_SHAPES)
    return Part(f"profile-{backend}", 120, command, ("gpu", "ncu"))


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"gpu_check.{name}", *arguments)


def chosen(names: Sequence[str] | None) -> list[Part]:
    """Those of the names, in order; all of them for None.

    Raises:
        ValueError: a name that is none of them.
    """
    every = parts()
    unknown = sorted(set(names or ()) - {part.name for part in every})
    if unknown:
        raise ValueError(f"--parts: expected some of {', '.join(part.name for part in every)}; got {unknown[0]!r}")
    return [part for part in every if names is None or part.name in names]
