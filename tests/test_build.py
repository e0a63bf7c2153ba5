"""What a build says of an environment or an architecture that it cannot use, before it compiles anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_an_old_setuptools_is_named(tmp_path: Path) -> None:
    """Python 3.11's own venv brings setuptools 65, which knows neither bdist_wheel nor the license as it is written."""
    if sys.version_info >= (3, 12):
        pytest.skip("a venv of Python 3.12 and later brings no setuptools")
    venv.create(tmp_path, with_pip=True)
    command = [tmp_path / "bin" / "python", "setup.py", "--version"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert "building needs setuptools >= 77, this environment has 65" in result.stderr
    assert "pip install 'setuptools>=77'" in result.stderr


def configure(folder: Path, *options: str, programs: Path | None = None, **environment: str) -> str:
    """What CMake prints where it configures the project, nvcc included; `programs` goes first on the PATH."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the PATH")
    command = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", *options]
    path = os.pathsep.join(
        [*([str(programs)] if programs else []), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("TORCH_CUDA_ARCH_LIST",)}
    result = subprocess.run(command, env={**kept, "PATH": path, **environment}, capture_output=True, text=True)
    return result.stdout + result.stderr


def test_older_gpus_of_the_machines_list_are_left_out_with_a_word(tmp_path: Path) -> None:
    printed = configure(tmp_path, TORCH_CUDA_ARCH_LIST="7.5 9.0+PTX")
    assert "deltaconv: TORCH_CUDA_ARCH_LIST: 7.5 is left out, the kernels need 8.0 or newer" in printed
    assert "for 9.0+PTX" in printed
    assert "sm_75" not in (tmp_path / "build.ninja").read_text()


def test_a_list_of_older_gpus_alone_is_an_error(tmp_path: Path) -> None:
    printed = " ".join(configure(tmp_path, TORCH_CUDA_ARCH_LIST="6.0;7.5").split())
    assert "TORCH_CUDA_ARCH_LIST: expected at least one architecture from 8.0 up, got '6.0;7.5'" in printed


@pytest.mark.parametrize(
    ("script", "chosen"),
    [
        ("printf '9.0\\n9.0\\n12.0\\n'", "for 9.0;12.0"),
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver' && exit 9", "for 9.0"),
        ("echo 'No devices were found'", "for 9.0"),
    ],
    ids=["three GPUs", "no driver", "no GPU"],
)
def test_native_is_what_this_machines_gpus_run(tmp_path: Path, script: str, chosen: str) -> None:
    """The driver's own tool is the only thing that is replaced: there is no GPU where this runs."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "nvidia-smi").chmod(0o755)
    printed = configure(tmp_path / "build", "-DDELTACONV_CUDA_ARCHS=native", programs=programs)
    line = next(line for line in printed.splitlines() if "deltaconv: CUDA" in line)
    assert line.endswith(chosen), printed
    assert ("names no GPU here: 9.0 alone" in printed) == (chosen == "for 9.0")
