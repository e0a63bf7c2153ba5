"""csrc/ as text: which folder may include which, and comments that nothing has reflowed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
CUDA = CSRC / "cuda"
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu"))
WIDTH = 120

# The folders of csrc/cuda and those that each may include, beside itself (docs/architecture.md).
MAY_INCLUDE = {"device": set(), "layout": {"device"}}
MAY_INCLUDE["plan"] = MAY_INCLUDE["frame"] = {"device", "layout"}
MAY_INCLUDE["cuda_cores"] = MAY_INCLUDE["tensor_cores"] = {"device", "layout", "plan", "frame"}
MAY_INCLUDE["fused_block"] = {"device", "layout", "plan", "frame"}
MAY_INCLUDE["ops"] = set(MAY_INCLUDE)
MAY_INCLUDE["host"] = set(MAY_INCLUDE)


def included(text: str) -> list[str]:
    """The files that a source includes by their path below csrc."""
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)


def wrong_includes(room: str, text: str) -> list[str]:
    """Includes that a source of this folder of csrc/cuda must not have."""
    allowed = {f"cuda/{other}/" for other in MAY_INCLUDE[room] | {room}}
    return [path for path in included(text) if "/" in path and not path.startswith(tuple(allowed))]


@pytest.mark.parametrize("room", MAY_INCLUDE)
def test_a_folder_of_cuda_includes_those_below_it_alone(room):
    sources = [path for path in SOURCES if path.is_relative_to(CUDA / room)]
    assert sources
    wrong = {str(path.relative_to(CUDA)): wrong_includes(room, path.read_text()) for path in sources}
    assert not {path: includes for path, includes in wrong.items() if includes}


def test_every_source_of_cuda_is_in_a_known_folder():
    assert {path.relative_to(CUDA).parts[0] for path in SOURCES if path.is_relative_to(CUDA)} == set(MAY_INCLUDE)


def test_an_include_upward_is_found():
    text = (
        '#include <vector>\n\n#include "cuda/device/mma.h"\n#include "cuda/cuda_cores/stage.h"\n#include "pyramid.h"\n'
    )
    assert wrong_includes("tensor_cores", text) == ["cuda/cuda_cores/stage.h"]
    assert wrong_includes("device", '#include "cuda/layout/stages.h"\n') == ["cuda/layout/stages.h"]
    assert wrong_includes("plan", '#include "cpu/problem.h"\n') == ["cpu/problem.h"]


def comments(text: str) -> Iterator[tuple[int, list[str]]]:
    """The comments of a source, each with the number of its first line; a blank comment line begins a new one."""
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        found = re.match(r"\s*// (.+)", line)
        if found:
            lines.append(found[1])
            continue
        if lines:
            yield number - len(lines), lines
        lines = []
        if trailing := re.search(r"\S\s+// (.+)", line):
            yield number, [trailing[1]]


def leftovers(text: str) -> list[int]:
    """Lines of one or two words below a comment's first line: what reflowing leaves. Tables are indented."""
    return [
        first + below
        for first, lines in comments(text)
        for below, line in enumerate(lines)
        if below > 0 and not line.startswith(" ") and len(line.split()) <= 2
    ]


def riddles(text: str) -> list[int]:
    """Comments that do not start with their subject, or name it by "likewise" or "the same" alone."""
    riddle = re.compile(r"(of|the same|same)\b|.*\blikewise\b", re.IGNORECASE)
    return [first for first, lines in comments(text) if riddle.match(" ".join(lines))]


def per_source(check) -> dict[str, list[int]]:
    return {str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := check(path.read_text()))}


def test_no_comment_ends_in_a_line_of_one_or_two_words():
    assert not per_source(leftovers)


def test_comments_start_with_their_subject():
    assert not per_source(riddles)


def test_a_reflowed_comment_is_found():
    assert leftovers("// The windows of a plane, one for\n// each channel.\nint a;  // b\n") == [2]
    assert leftovers("// A table of two columns:\n//   a b\n//\n// Its caption.\n") == []


def test_a_riddle_is_found():
    assert riddles("// Of a plane.\nint rows;  // of a plane\nint cols;  // columns of a plane\n") == [1, 2]
    assert riddles("// The same for bias.\nint a;\n// The bias\n// likewise.\n") == [1, 3]


def test_lines_are_no_wider_than_the_formatters_width():
    too_wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > WIDTH
    ]
    assert not too_wide
    assert f"ColumnLimit: {WIDTH}" in (ROOT / ".clang-format").read_text()
