"""Builds a Python module of C++ with CMake and Ninja, in build/, and loads it."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def build(sources: Path, name: str, *options: str) -> Path:
    """Compile a CMake project into build/<name>, what changed since the last time; the folder.

    One process at a time: the tests run in several.
    """
    import pybind11

    folder = ROOT / "build" / name
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    cmake, ninja = (shutil.which(tool, path=tools) for tool in ("cmake", "ninja"))
    configure = [cmake, "-S", sources, "-B", folder, "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", *options]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        for command in (configure, [cmake, "--build", folder]):
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode != 0:
                raise RuntimeError(f"{command}:\n{result.stdout}\n{result.stderr}")
    return folder


def load(folder: Path, name: str) -> ModuleType:
    """The module of that name which was built in a folder."""
    (path,) = folder.glob(f"{name}*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
