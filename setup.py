"""Builds the native libraries with CMake + Ninja and puts them into deltaconv_kernels/_native.

CMakeLists.txt is the one list of sources and flags. Knobs, all from the environment:
DELTACONV_CUDA=auto|on|off, DELTACONV_CUDA_ARCHS or TORCH_CUDA_ARCH_LIST, MAX_JOBS, CMAKE_ARGS.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import setuptools

SETUPTOOLS = 77  # the first that reads pyproject.toml's license as it stands there, and has bdist_wheel

# An isolated build brings both (pyproject.toml); `pip install --no-build-isolation` takes what is there.
if int(setuptools.__version__.split(".")[0]) < SETUPTOOLS:
    raise SystemExit(
        f"deltaconv-kernels: building needs setuptools >= {SETUPTOOLS}, this environment has {setuptools.__version__}: "
        f"pip install 'setuptools>={SETUPTOOLS}'"
    )
if find_spec("torch") is None:
    raise SystemExit("deltaconv-kernels: building needs torch >= 2.11 in this environment, which has none")

from setuptools import Extension, setup  # noqa: E402  after the check of its version
from setuptools.command.bdist_wheel import bdist_wheel  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402

ROOT = Path(__file__).parent.resolve()
KNOBS = ("DELTACONV_CUDA", "DELTACONV_CUDA_ARCHS")
LIBRARIES_GO_TO = Path("deltaconv_kernels") / "_native"


class CMakeBuild(build_ext):
    """Stands for all native libraries: one CMake project, not one Extension per library."""

    def run(self) -> None:
        if self.inplace:  # an editable install builds again and again: only what changed
            self._build(ROOT / "build" / "cmake")
        else:
            with tempfile.TemporaryDirectory() as fresh:
                self._build(Path(fresh))

    def _build(self, folder: Path) -> None:
        # The cmake and ninja of this Python's environment, which need not be activated, before the system's.
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        cmake, ninja = (shutil.which(tool, path=tools) for tool in ("cmake", "ninja"))
        if not cmake or not ninja:
            raise SystemExit("deltaconv-kernels: building needs cmake >= 3.25 and ninja: pip install cmake ninja")
        configure = [cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
        configure += [f"-D{knob}={os.environ[knob]}" for knob in KNOBS if knob in os.environ]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        build = [cmake, "--build", str(folder), "--parallel", os.environ.get("MAX_JOBS", str(os.cpu_count()))]
        for command in (configure, build):
            print("+", shlex.join(command), flush=True)
            subprocess.run(command, check=True)
        self._collect(folder / "native")

    def _collect(self, built: Path) -> None:
        target = (ROOT if self.inplace else Path(self.build_lib)) / LIBRARIES_GO_TO
        target.mkdir(parents=True, exist_ok=True)
        for library in sorted(built.glob("*.so")):
            # Beside and renamed: a process that has the old library mapped keeps it.
            shutil.copy2(library, target / f".{library.name}.new")
            os.replace(target / f".{library.name}.new", target / library.name)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / LIBRARIES_GO_TO).glob("*.so")]

    def get_source_files(self) -> list[str]:
        return [
            "CMakeLists.txt",
            *(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file()),
        ]


class StableAbiWheel(bdist_wheel):
    """The libraries hold no Python and link torch's stable ABI alone: one wheel for every Python and torch >= 2.11."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("deltaconv_kernels._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": StableAbiWheel},
)
