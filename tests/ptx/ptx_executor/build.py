"""Builds the interpreter, native/, as a Python module."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
FOLDER = Path(__file__).parents[3] / "build" / "ptx-interpreter"


@cache
def interpreter():
    """The module, compiled if it is not."""
    import pybind11

    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    cmake, ninja = (shutil.which(tool, path=tools) for tool in ("cmake", "ninja"))
    configure = [cmake, "-S", SOURCES, "-B", FOLDER, "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    for command in (configure, [cmake, "--build", FOLDER]):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{command}:\n{result.stdout}\n{result.stderr}")
    (path,) = FOLDER.glob("ptx_interpreter*.so")
    spec = importlib.util.spec_from_file_location("ptx_interpreter", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
