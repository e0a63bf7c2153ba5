"""Compiles the CPU library's sources for systems that are not here: macOS, Windows, Linux on ARM.

`python tools/compilers/check_other_systems.py [TARGET ...]` prints a row for each target: how many of CMake's compile
commands for it Clang accepts, without a warning, against that system's own C headers and torch's; exits with 1 where it
does not. Nothing is linked and nothing is run. Needs tools/compilers/requirements.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Zig's names of them, and what a compiler of that system is told beside: AppleClang is Clang; clang-cl has Microsoft's
# extensions of C++ on.
TARGETS = {
    "aarch64-macos": (),
    "x86_64-windows-gnu": ("-fms-extensions",),
    "aarch64-windows-gnu": ("-fms-extensions",),
    "aarch64-linux-gnu": (),
}
KEPT = ("-D", "-I", "-m", "-std=", "-f", "-W")  # of a compile command; -isystem is followed by its folder
OF_THIS_SYSTEM = ("-fPIC", "-ffile-prefix-map")
FOR_X86 = "-mavx2"


@dataclass(frozen=True)
class Source:
    """One compile command: the file and the options that matter to any system."""

    file: str
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        isa = [option.split("=")[1] for option in self.options if option.startswith("-DDELTACONV_ISA=")]
        return " for ".join([str(Path(self.file).relative_to(ROOT)), *isa])


def source_of(file: str, command: str) -> Source:
    words = shlex.split(command)
    options: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "-isystem":
            options += [word, following]
        elif word.startswith(KEPT) and not word.startswith(OF_THIS_SYSTEM):
            options.append(word)
    return Source(file, tuple(options))


def runs_on(source: Source, target: str) -> bool:
    """Whether CMakeLists.txt builds the source for the target's processor."""
    return target.startswith("x86_64") or FOR_X86 not in source.options


def sources(folder: Path) -> list[Source]:
    """What CMake compiles for the CPU library here, every instruction set included."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    cmake, ninja = (shutil.which(tool, path=path) for tool in ("cmake", "ninja"))
    if cmake is None or ninja is None:
        raise SystemExit("check_other_systems: needs cmake and ninja: pip install cmake ninja")
    knobs = (f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}", "-DDELTACONV_CUDA=off")
    for command in (
        (cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", *knobs),
        (ninja, "-C", folder, "csrc/cpu/declarations.h"),
    ):
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    entries = json.loads((folder / "compile_commands.json").read_text(encoding="utf-8"))
    return [source_of(entry["file"], entry["command"]) for entry in entries]


def complaint(source: Source, target: str, folder: Path) -> str:
    """What Clang says of the source; empty if it is content."""
    has = [option for option in source.options if not is_lost(option, target)]
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".o") as output:
        command = [sys.executable, "-m", "ziglang", "c++", "-target", target, *TARGETS[target], *has]
        command += ["-O0", "-c", source.file, "-o", output.name]
        result = subprocess.run(command, capture_output=True, text=True)
    said = result.stdout + result.stderr
    return said or (f"exit status {result.returncode}" if result.returncode else "")


def is_lost(option: str, target: str) -> bool:
    """An option that names a build which the target's processor has not."""
    return not target.startswith("x86_64") and option in ("-DDELTACONV_HAS_avx2", "-DDELTACONV_HAS_avx512")


def check(target: str, every: Sequence[Source], folder: Path, jobs: int) -> bool:
    """Print the target's row, and what Clang said where it said something."""
    wanted = [source for source in every if runs_on(source, target)]
    with ThreadPoolExecutor(jobs) as pool:
        said = list(pool.map(lambda source: complaint(source, target, folder), wanted))
    bad = [(source, text) for source, text in zip(wanted, said, strict=True) if text]
    print(f"| {target} | {len(wanted)} | {len(wanted) - len(bad)} |", flush=True)
    for source, text in bad:
        print(f"{source.name}:\n{text}", file=sys.stderr, flush=True)
    return not bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    arguments = parser.parse_args()
    unknown = [target for target in arguments.targets if target not in TARGETS]
    if unknown:
        parser.error(f"TARGET: expected some of {', '.join(TARGETS)}, got {', '.join(unknown)}")
    if find_spec("ziglang") is None:
        parser.error("needs a Clang for other systems: pip install -r tools/compilers/requirements.txt")
    print("| target | compile commands | accepted without a warning |\n| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        every = sources(Path(folder))
        good = [check(target, every, Path(folder), arguments.jobs) for target in arguments.targets or TARGETS]
    raise SystemExit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
