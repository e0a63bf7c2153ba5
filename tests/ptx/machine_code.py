"""Loops of PTX and of the machine code that ptxas makes of it, as lists of instructions in classes that both have."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ptx_executor import Entry

PRODUCTS, MULTIPLY_ADDS, FLOATS = "tensor cores' products", "multiply-adds", "other floats"
INTEGERS, MOVES = "integers", "moves and conversions"
SHARED, GLOBAL, PREDICATES = "shared memory", "global memory", "predicates and branches"
CLASSES = PRODUCTS, MULTIPLY_ADDS, FLOATS, INTEGERS, MOVES, SHARED, GLOBAL, PREDICATES
NOTHING = "nothing"  # fills the machine code up, behind its end

# The first pattern that an instruction begins with decides. Integers are addresses and counters in the loops here; an
# HFMA2.MMA is how ptxas moves a constant.
PTX_CLASSES = {
    r"mma\.": PRODUCTS,
    r"fma\.rn\.f32$": MULTIPLY_ADDS,
    r"(ld|st)\.shared|ldmatrix|bar\.": SHARED,
    r"(ld|st)\.(global|param)|cp\.async": GLOBAL,
    r"setp|selp|bra|ret|(and|or|xor|not|mov)\.pred": PREDICATES,
    r"mov|cvt|prmt|shfl": MOVES,
    r"(add|sub|mul|neg|max|min|abs|ex2|rcp|div|fma)\.([\w.]*\.)?(f32|f16|bf16|f16x2|bf16x2)": FLOATS,
    r"(add|sub|mul|mad|div|rem|neg|max|min|abs|bfe|bfi)\.([\w.]*\.)?[sub](16|32|64)": INTEGERS,
    r"(shl|shr|shf|and|or|xor|not|lop3)\.": INTEGERS,
}
SASS_CLASSES = {
    r"HMMA": PRODUCTS,
    r"FFMA$": MULTIPLY_ADDS,
    r"LDS|STS|BAR|WARPSYNC": SHARED,
    r"LDG|STG|LD\.E|U?LDC|DEPBAR": GLOBAL,
    r"U?ISETP|FSETP|U?PLOP3|U?SEL\b|FSEL|R2P|P2R": PREDICATES,
    r"(BRA|BSSY|BSYNC|BREAK|EXIT|CALL|RET|ENDCOLLECTIVE)\b": PREDICATES,
    r"U?MOV|R2UR|CS2R|S2U?R|U?PRMT|F2F|F2FP|I2F|F2I|HADD2\.F32|HFMA2\.MMA|SHFL|IMAD\.MOV|IMAD\.U32": MOVES,
    r"FADD|FMUL|FFMA|FMNMX|FCHK|MUFU|HADD2|HMUL2|HFMA2": FLOATS,
    r"U?IADD|VIADD|U?IMAD|U?LEA|U?SHF|U?LOP3|V?IMNMX|U?IABS|U?BREV|U?FLO|U?POPC|U?BMSK|U?SGXT": INTEGERS,
    r"NOP": NOTHING,
}
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+ )?(?P<opcode>[A-Z][\w.]*)(?P<operands>[^;]*)")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")
LABEL = re.compile(r"^(\.L_x_\d+):")


@dataclass(frozen=True)
class Issued:
    """An instruction: its opcode, whether a predicate may leave it out, and where a branch goes (-1: none)."""

    opcode: str
    guarded: bool
    target: int = -1


def class_of(opcode: str, classes: dict[str, str]) -> str:
    """ValueError where no class has the opcode."""
    for pattern, name in classes.items():
        if re.match(pattern, opcode):
            return name
    raise ValueError(f"no class for the instruction {opcode}")


def instructions_of_ptx(entry: Entry) -> list[Issued]:
    return [Issued(i.opcode, i.guard >= 0, i.target) for i in entry.body.instructions]


def instructions_of_sass(listing: str) -> list[Issued]:
    """Of one kernel, as `nvdisasm -c` lists it."""
    labels: dict[str, int] = {}
    found: list[tuple[str, bool, str]] = []
    for line in listing.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(found)
        elif instruction := INSTRUCTION.match(line):
            target = TARGET.search(instruction["operands"]) if instruction["opcode"].startswith("BRA") else None
            found.append((instruction["opcode"], bool(instruction["guard"]), target[1] if target else ""))
    return [Issued(opcode, guarded, labels.get(target, -1)) for opcode, guarded, target in found]


def main_loop(instructions: list[Issued], classes: dict[str, str], most: str) -> list[Issued]:
    """The loop with most of a class, of those without a loop inside: up to the branch back."""
    loops = [range(branch.target, at + 1) for at, branch in enumerate(instructions) if 0 <= branch.target <= at]
    innermost = [
        loop for loop in loops if not any(other.stop < loop.stop and other.start >= loop.start for other in loops)
    ]
    bodies = [instructions[loop.start : loop.stop] for loop in innermost]
    return max(bodies, key=lambda body: (classified(body, classes)[most], -len(body)))


def classified(loop: list[Issued], classes: dict[str, str]) -> Counter[str]:
    return Counter(class_of(instruction.opcode, classes) for instruction in loop)


def guarded(loop: list[Issued], classes: dict[str, str]) -> int:
    """Instructions under a predicate, but for branches."""
    return sum(i.guarded and class_of(i.opcode, classes) != PREDICATES for i in loop)


@cache
def tool(name: str) -> str | None:
    """A program of the CUDA toolkit: on the PATH, in /usr/local/cuda, or in Triton's package."""
    triton = find_spec("triton")
    folders = [None, "/usr/local/cuda/bin"]
    if triton and triton.origin:
        folders.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return next((found for folder in folders if (found := shutil.which(name, path=folder))), None)


def assembled(ptx: str, entry: str, architecture: int) -> str:
    """The listing of one entry's machine code, by ptxas and nvdisasm."""
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        _run("ptxas", f"-arch=sm_{architecture}", "--entry", entry, str(source), "-o", str(cubin))
        return _run("nvdisasm", "-c", str(cubin))


def _run(name: str, *arguments: str) -> str:
    if tool(name) is None:
        raise RuntimeError(
            f"{name}: expected on the PATH, in /usr/local/cuda/bin or in the package triton, found nowhere"
        )
    result = subprocess.run([tool(name), *arguments], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{name} {' '.join(arguments)}:\n{result.stderr}")
    return result.stdout
