"""What a wheel may hold, and what not: both libraries, PyPI's limit, a manylinux tag, no path of the build machine.

`python tools/release/check_contents.py WHEEL --without /home/me /tmp/build`; exits with 1 and says what is wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from pathlib import Path

LIMIT = 100_000_000  # bytes; PyPI takes no larger file of a project that has not asked
NEEDED = (
    "deltaconv_kernels/_native/libdeltaconv_cpu.so",
    "deltaconv_kernels/_native/libdeltaconv_cuda.so",
    "deltaconv_kernels/py.typed",
    "deltaconv_kernels/triton/configurations.json",
)
TAG = re.compile(r"-py3-none-manylinux_2_(\d+)_x86_64\.whl$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--without", nargs="*", default=[], help="paths that no file of the wheel may contain")
    options = parser.parse_args()
    if relative := [path for path in options.without if not path.startswith("/")]:
        parser.error(f"--without: expected whole paths, got {', '.join(relative)}")
    wrong = problems(options.wheel, options.without)
    for problem in wrong:
        print(f"check_contents: {problem}", file=sys.stderr)
    if wrong:
        sys.exit(1)
    print(f"{options.wheel.name}: {options.wheel.stat().st_size / 1e6:.1f} MB, no path of this machine in it")


def problems(wheel: Path, paths: list[str]) -> list[str]:
    """What is wrong with a wheel, a sentence each; none if nothing is."""
    found = []
    if not TAG.search(wheel.name):
        found.append(f"expected the tag py3-none-manylinux_2_*_x86_64, got {wheel.name}")
    if wheel.stat().st_size > LIMIT:
        found.append(f"expected at most {LIMIT} bytes, got {wheel.stat().st_size}")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        found += [f"{needed} is missing" for needed in NEEDED if needed not in names]
        found += [f"{name} does not belong there" for name in sorted(names) if belongs_not(name)]
        for name in sorted(names):
            content = archive.read(name)
            found += [f"{name} contains the path {path}" for path in paths if path.encode() in content]
    return found


def belongs_not(name: str) -> bool:
    top = name.split("/")[0]
    known = top in ("deltaconv_kernels", "deltaconv_distill") or top.endswith(".dist-info")
    return not known or "__pycache__" in name


if __name__ == "__main__":
    main()
