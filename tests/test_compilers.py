"""Compilers and systems that are not here: what of a compile command holds for them, and that a fault is found."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import check_other_systems
import pytest

ROOT = Path(__file__).parents[1]
COMMAND = (
    f"/usr/bin/c++ -DDELTACONV_HAS_avx2 -DDELTACONV_HAS_baseline -I{ROOT}/csrc -isystem /torch/include -O3 -DNDEBUG"
    f" -std=c++20 -fPIC -fvisibility=hidden -ffile-prefix-map={ROOT}=. -Wall -Wno-psabi -o x.o -c inputs.cpp"
)


def test_what_holds_for_any_system_is_kept() -> None:
    source = check_other_systems.source_of(f"{ROOT}/csrc/inputs.cpp", COMMAND)
    kept = f"-DDELTACONV_HAS_avx2 -DDELTACONV_HAS_baseline -I{ROOT}/csrc -isystem /torch/include -DNDEBUG -std=c++20"
    assert source.options == (*kept.split(), "-fvisibility=hidden", "-Wall", "-Wno-psabi")
    assert source.name == "csrc/inputs.cpp"


def test_an_instruction_set_is_compiled_for_its_processor_alone() -> None:
    source = check_other_systems.source_of(
        f"{ROOT}/csrc/cpu/forward.cpp", "c++ -DDELTACONV_ISA=avx2 -mavx2 -mfma -mf16c"
    )
    assert source.name == "csrc/cpu/forward.cpp for avx2"
    assert [check_other_systems.runs_on(source, target) for target in ("x86_64-windows-gnu", "aarch64-macos")] == [
        True,
        False,
    ]
    assert check_other_systems.is_lost("-DDELTACONV_HAS_avx2", "aarch64-macos")
    assert not check_other_systems.is_lost("-DDELTACONV_HAS_avx2", "x86_64-windows-gnu")


@pytest.mark.parametrize("target", [target for target in check_other_systems.TARGETS if "linux" not in target])
def test_a_fault_on_another_system_is_found(target: str, tmp_path: Path) -> None:
    """What the CPU library does on Linux alone."""
    if find_spec("ziglang") is None:
        pytest.skip("needs a Clang for other systems: pip install -r tools/compilers/requirements.txt")
    good, bad = tmp_path / "good.cpp", tmp_path / "bad.cpp"
    good.write_text("#include <vector>\nstatic_assert(sizeof(long long) == 8);\n")
    bad.write_text("#if __has_include(<sys/mman.h>)\n#include <sys/mman.h>\n#endif\nint advice = MADV_HUGEPAGE;\n")
    sources = [check_other_systems.Source(str(path), ("-std=c++20",)) for path in (good, bad)]
    said = [check_other_systems.complaint(source, target, tmp_path) for source in sources]
    assert said[0] == ""
    assert "error:" in said[1]
