"""Writes the folder of a kernel for the Hugging Face Hub, as the package `kernels` loads it.

`python tools/release/hub_kernel.py OUTPUT [--backends cpu cuda]` builds the native libraries and leaves

    OUTPUT/build.toml, README.md        what the Hub shows
    OUTPUT/torch-ext/deltaconv/         the package without libraries
    OUTPUT/build/torch-stable-abi211-cpu-x86_64-linux/        one folder a backend: the package, metadata.json
    OUTPUT/build/torch-stable-abi211-cu130-x86_64-linux/

Its operators lie in a namespace of their own, made of the sources: such a package may stand beside the installed
library, and beside other versions of itself. The distillation layer is no part of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "deltaconv_kernels"
NAME = "deltaconv"
STABLE_ABI = "211"  # of torch 2.11; see TORCH_TARGET_VERSION in CMakeLists.txt
LIBRARIES = {"cpu": ("cpu",), "cuda": ("cpu", "cuda")}  # the CPU library plans for the CUDA library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--backends", nargs="+", choices=tuple(LIBRARIES), default=tuple(LIBRARIES))
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "hub", help="CMake's folder, kept between runs")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"output: expected a folder that does not exist yet, {options.output} does")
    beside = options.output.with_name(options.output.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    native = build(options.build, options.backends)
    write(beside, options.backends, native)
    beside.rename(options.output)
    print(options.output)


def namespace() -> str:
    """The operators' namespace: the name with a digest of every source that goes in."""
    digest = hashlib.sha256()
    for path in sorted([*package_files(), *(path for path in (ROOT / "csrc").rglob("*") if path.is_file())]):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return f"_{NAME}_{digest.hexdigest()[:12]}"


def package_files() -> list[Path]:
    """The installed package's files without the libraries."""
    return [path for suffix in ("*.py", "*.json", "py.typed") for path in PACKAGE.rglob(suffix)]


def build(folder: Path, backends: Iterable[str]) -> Path:
    """Builds the libraries with the namespace of the package, and returns their folder."""
    configure = [tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DDELTACONV_NAMESPACE={namespace()}"]
    configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
    configure += [f"-DDELTACONV_CUDA={'on' if 'cuda' in backends else 'off'}"]
    if "DELTACONV_CUDA_ARCHS" in os.environ:
        configure.append(f"-DDELTACONV_CUDA_ARCHS={os.environ['DELTACONV_CUDA_ARCHS']}")
    subprocess.run(configure, check=True)
    subprocess.run([tool("cmake"), "--build", folder], check=True)
    return folder / "native"


def tool(name: str) -> str:
    """A program of this Python's environment, which need not be activated, or else the system's."""
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is None:
        raise SystemExit(f"hub_kernel: {name} is needed: pip install {name}")
    return path


def write(output: Path, backends: Iterable[str], native: Path) -> None:
    """Writes the whole folder from the built libraries."""
    write_package(output / "torch-ext" / NAME)
    for backend in backends:
        variant = output / "build" / variant_name(backend)
        write_package(variant)
        (variant / "_native").mkdir()
        for library in LIBRARIES[backend]:
            shutil.copy(native / f"libdeltaconv_{library}.so", variant / "_native")
        text = json.dumps(metadata(backend), indent=2)
        (variant / "metadata.json").write_text(text + "\n", encoding="utf-8")
    (output / "build.toml").write_text(build_toml(backends), encoding="utf-8")
    (output / "README.md").write_text(CARD, encoding="utf-8")


def write_package(folder: Path) -> None:
    """Copies the package, its namespace replaced: relative imports make it work under any name."""
    for source in package_files():
        target = folder / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    path = folder / "namespace.py"
    text, count = re.subn(r'^NAMESPACE = ".*"$', f'NAMESPACE = "{namespace()}"', path.read_text(), flags=re.MULTILINE)
    assert count == 1, "deltaconv_kernels/namespace.py names the namespace once"
    path.write_text(text, encoding="utf-8")


def variant_name(backend: str) -> str:
    """The folder's name, by which `kernels` knows what it runs on."""
    system = f"{platform.machine()}-{platform.system().lower()}"
    return f"torch-stable-abi{STABLE_ABI}-{backend if backend == 'cpu' else cuda_version()}-{system}"


def cuda_version() -> str:
    """nvcc's version as in the names of variants: cu130."""
    said = subprocess.run([os.environ.get("CUDACXX", "nvcc"), "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"release (\d+)\.(\d+)", said.stdout)
    assert match, said.stdout
    return f"cu{match[1]}{match[2]}"


def metadata(backend: str) -> dict[str, object]:
    """What `kernels` reads before it imports a variant."""
    return {
        "id": f"{namespace()}_{backend}",
        "name": NAME,
        "version": 1,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend},
    }


def build_toml(backends: Iterable[str]) -> str:
    """The folder's description. `kernel-builder` could not build these sources (one file for many instruction sets)."""
    names = ", ".join(f'"{backend}"' for backend in backends)
    return (
        "# tools/release/hub_kernel.py of deltaconv-kernels builds the variants in build/.\n"
        f'[general]\nedition = 5\nname = "{NAME}"\nversion = 1\nlicense = "Apache-2.0"\nbackends = [{names}]\n\n'
        f'[torch]\nstable-abi = "{STABLE_ABI[0]}.{STABLE_ABI[1:]}"\nsrc = []\n'
    )


CARD = """---
license: apache-2.0
tags:
- kernels
---
# deltaconv

Fused pyramid depthwise convolutions: ΔConvBlocks (arXiv 2504.21292) in place of self-attention.

```python
from kernels import get_kernel

deltaconv = get_kernel("ACCOUNT/deltaconv", version=1)
block = deltaconv.DeltaConvBlock(320, kernel_size=9).to("cuda")
y = block(x)  # x: [batch, height, width, 320]
```
"""


if __name__ == "__main__":
    main()
