"""Builds the CPU library by a sanitizer's preset of CMakePresets.json, once, and runs Python with it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "sanitizers"
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
EVERY_INSTRUCTION_SET = os.environ.get("DELTACONV_SANITIZE") == "all"
SHORT = "avx2" if platform.machine() in ("x86_64", "AMD64") else "baseline"  # what `make test` builds

RUNTIMES = {"asan-ubsan": ("libasan.so", "libubsan.so"), "tsan": ("libtsan.so",)}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at exit
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


class Sanitized:
    """The library of one preset, in build/<preset>."""

    def __init__(self, preset: str) -> None:
        self.folder = ROOT / "build" / preset
        cmake, ninja = _tool("cmake"), _tool("ninja")
        sets = "" if EVERY_INSTRUCTION_SET else SHORT
        knobs = (
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DDELTACONV_CPU_ISAS={sets}",
        )
        _checked(cmake, "--preset", preset, *knobs)
        _checked(cmake, "--build", self.folder)
        cache = (self.folder / "CMakeCache.txt").read_text().splitlines()
        compiler = next(line.split("=", 1)[1] for line in cache if line.startswith("CMAKE_CXX_COMPILER:"))
        self.preloaded = [_checked(compiler, f"-print-file-name={name}").strip() for name in RUNTIMES[preset]]
        if preset == "tsan":
            self.preloaded.append(self._threads(compiler))

    def _threads(self, compiler: str) -> str:
        library = str(self.folder / "libthreads.so")
        flags = ("-std=c++20", "-O1", "-g1", "-shared", "-fPIC", "-fsanitize=thread")
        _checked(compiler, *flags, SOURCES / "threads.cpp", "-o", library)
        return library

    def run(self, task: str, instruction_set: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A task of sanitizers/child.py."""
        environment |= {"DELTACONV_CPU_ISA": instruction_set, "OMP_NUM_THREADS": "1", **OPTIONS}
        environment["LD_PRELOAD"] = " ".join(self.preloaded)
        # Without address randomisation: GCC 12's ThreadSanitizer gives up on the wide one of newer kernels.
        command = (_tool("setarch"), "-R", sys.executable, SOURCES / "child.py", self.folder / "native", task)
        return _run(*command, **environment)


sanitized = cache(Sanitized)


def _tool(name: str) -> str:
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is None:
        raise FileNotFoundError(f"{name} is needed to build and run the sanitized library")
    return path


def _run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def _checked(*command: object) -> str:
    result = _run(*command)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{result.stdout}{result.stderr}")
    return result.stdout
