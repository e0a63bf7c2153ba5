"""The PTX that nvcc makes of csrc/cuda, kept in build/ptx as long as the sources stay the same."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from host_build import module as host_build
from ptx_executor import Module, PtxError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "ptx"
NEWEST = 121  # that nvcc 13.0 knows
FLAGS = ["-ptx", "-lineinfo", "-std=c++17", f"-I{ROOT / 'csrc'}"]


@cache
def nvcc() -> str | None:
    """The compiler, from the PATH or /usr/local/cuda."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@cache
def _sources_digest() -> str:
    """Of everything that a .cu may include, and of the compiler."""
    digest = hashlib.sha256(subprocess.run([nvcc(), "--version"], capture_output=True, check=True).stdout)
    for path in sorted((ROOT / "csrc" / "cuda").rglob("*")):
        if path.suffix in (".h", ".cu") and path.parent.name != "host" and path.name != "host.h":
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    digest.update((ROOT / "csrc" / "pyramid.h").read_bytes())
    return digest.hexdigest()[:16]


@cache
def ptx(source: str, storage: str, compute_capability: int) -> str:
    """The PTX of a .cu, by its path in csrc/cuda, for float, Half or BFloat16 and compute_<capability>."""
    path = ROOT / "csrc" / "cuda" / source
    assert nvcc(), "nvcc is needed"
    target = FOLDER / _sources_digest() / f"{source}.{storage}.{compute_capability}.ptx"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")  # another process may compile it too
        target_flags = [f"-DDELTACONV_STORAGE={storage}", f"-arch=compute_{compute_capability}"]
        command = [nvcc(), *FLAGS, *target_flags, str(path), "-o", str(unfinished)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}:\n{result.stderr}"
        unfinished.rename(target)
    return target.read_text()


@cache
def module(source: str, storage: str, compute_capability: int) -> Module:
    return Module.parse(ptx(source, storage, compute_capability))


def storage_of(kernel: str) -> str:
    """The storage type of a kernel, from the name of its type as the host build gives it."""
    found = re.search(r"<(?:deltaconv::)?(float|Half|BFloat16)\b", kernel)
    if not found:
        raise PtxError(f"the name of a kernel: expected a storage type first between its brackets, got {kernel}")
    return found[1]


@cache
def _entries_by_types(ptx_module: Module) -> dict[str, str]:
    """Entry names by what stands between the brackets of pyramid_kernel<Kernel, Arguments>."""
    demangle = host_build().demangled
    return {demangle(name).split("<", 1)[1].rsplit(">(", 1)[0].strip(): name for name in ptx_module.entries}


def entry_of(ptx_module: Module, kernel: str, arguments: str) -> str:
    """The entry of a kernel's type and its arguments' type, as the host build names them."""
    entries = _entries_by_types(ptx_module)
    if (types := f"{kernel}, {arguments}") not in entries:
        raise PtxError(f"no entry of the types {types}; there are {sorted(entries)}")
    return entries[types]
