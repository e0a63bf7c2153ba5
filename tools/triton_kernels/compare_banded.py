"""Plain multiply-adds against a banded matrix on tensor cores, by the machine code: instructions of the inner loop.

Compiles, for a GPU that need not be here, the convolution of the triton backend and a trial that does the same by one
`tl.dot` a kernel row: x [channels, rows, columns] times a Toeplitz matrix [channels, columns, 16] of the row's weights.
Prints what a loop over kernel rows executes, for the same number of outputs a thread.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from compile_triton import BINARIES, compile_launch, launches_of
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from deltaconv_kernels.testing import Shape

ARCHITECTURE = 90
CHANNELS, WARPS = 320, 4
ROWS, COLUMNS_IN, COLUMNS_OUT = 16, 32, 16  # of the trial's tile; 32 columns serve 16 outputs up to K = 17
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_]+)")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")
LABEL = re.compile(r"^(\.L_x_\d+):")


@triton.jit
def banded_kernel(
    p_x, p_weight, p_y, H, W, C: tl.constexpr, K: tl.constexpr,
    BC: tl.constexpr, BH: tl.constexpr, BI: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """One plane of [H, W, C] by [K, K, C]; a program computes BH x BW outputs of BC channels."""
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    tiles = tl.cdiv(W, BW)
    r_0, c_0 = tl.program_id(0) // tiles * BH, tl.program_id(0) % tiles * BW
    row, column = r_0 + tl.arange(0, BH), c_0 + tl.arange(0, BI) - K // 2
    tap = tl.arange(0, BI)[:, None] - tl.arange(0, BW)[None, :]  # [BI, BW]
    m_tap = (tap >= 0) & (tap < K)
    b_y = tl.zeros([BC, BH, BW], tl.float32)
    for kh in range(K):
        above = row + kh - K // 2
        m_x = ((above >= 0) & (above < H))[:, None] & ((column >= 0) & (column < W))[None, :]
        p_rows = p_x + (above[:, None] * W + column[None, :])[None] * C + o_c[:, None, None]
        b_x = tl.load(p_rows, mask=m_x[None], other=0)  # [BC, BH, BI]
        p_taps = p_weight + (kh * K + tap)[None] * C + o_c[:, None, None]
        b_t = tl.load(p_taps, mask=m_tap[None], other=0)  # [BC, BI, BW]
        b_y = tl.dot(b_x, b_t, b_y)
    o_w = c_0 + tl.arange(0, BW)
    m_y = (row < H)[:, None] & (o_w < W)[None, :]
    p_out = p_y + (row[:, None] * W + o_w[None, :])[None] * C + o_c[:, None, None]
    tl.store(p_out, b_y.to(p_y.dtype.element_ty), mask=m_y[None])


def compile_banded(kernel_size: int, channels: int) -> Any:
    tensors = ("p_x", "p_weight", "p_y")
    constants = {"C": CHANNELS, "K": kernel_size, "BC": channels, "BH": ROWS, "BI": COLUMNS_IN, "BW": COLUMNS_OUT}
    names = [parameter.name for parameter in banded_kernel.params]
    signature = {name: "*bf16" if name in tensors else "constexpr" if name in constants else "i32" for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in tensors}
    by_index = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(banded_kernel, signature, by_index, attributes)
    return triton.compile(source, target=GPUTarget("cuda", ARCHITECTURE, 32), options={"num_warps": WARPS})


def loop_of(compiled: Any, opcode: str) -> Counter[str]:
    """The opcodes of the innermost loop that has most of `opcode`, as nvdisasm lists them."""
    return busiest_loop(disassembled(compiled), opcode)


def disassembled(compiled: Any) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        Path(cubin.name).write_bytes(compiled.asm["cubin"])
        command = [BINARIES / "nvdisasm", "-c", cubin.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def busiest_loop(code: str, opcode: str) -> Counter[str]:
    """Of the loops with most of `opcode`, the shortest."""
    return max(
        (opcodes for _, opcodes in loops(code)),
        key=lambda opcodes: (opcodes[opcode], -opcodes.total()),
        default=Counter(),
    )


def loops(code: str) -> list[tuple[range, Counter[str]]]:
    """Branches back to a label: the instructions between, by number and by opcode."""
    labels: dict[str, int] = {}
    opcodes: list[str] = []
    found: list[tuple[range, Counter[str]]] = []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label.group(1)] = len(opcodes)
        elif instruction := INSTRUCTION.match(line):
            opcodes.append(instruction.group(1))
            target = TARGET.search(line)
            if opcodes[-1] == "BRA" and target and target.group(1) in labels:
                start = labels[target.group(1)]
                body = Counter(name for name in opcodes[start:] if name != "NOP")
                found.append((range(start, len(opcodes)), body))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel_sizes", nargs="+", type=int, default=[9, 13, 17])
    parser.add_argument("--channels", nargs="+", type=int, default=[8, 16], help="of a program of the trial")
    options = parser.parse_args()
    print(
        "| K | channels | banded, a kernel row | of these HMMA | loads and stores | barriers "
        "| plain, the same outputs | of these loads |"
    )
    print("| ---: " * 8 + "|")
    for kernel_size in options.kernel_sizes:
        forward = launches_of(Shape(1, 64, 64, CHANNELS, kernel_size, (1,)), torch.bfloat16, ARCHITECTURE)[0]
        plain = loop_of(compile_launch(forward, ARCHITECTURE), "FFMA")
        for channels in options.channels:
            banded = loop_of(compile_banded(kernel_size, channels), "HMMA")
            counts = (banded.total(), banded["HMMA"], memory_accesses(banded), banded["BAR"])
            share = channels * ROWS * COLUMNS_OUT * kernel_size / (32 * WARPS) / plain["FFMA"]
            same = (round(share * plain.total()), round(share * memory_accesses(plain)))
            print("| " + " | ".join(map(str, (kernel_size, channels, *counts, *same))) + " |", flush=True)


def memory_accesses(opcodes: Counter[str]) -> int:
    """Instructions of the load/store units, of which an SM has 32: one takes a quarter of it four cycles."""
    return sum(opcodes[name] for name in ("LDG", "LDS", "LDSM", "STS", "STG", "LDGSTS", "LDL", "STL"))


if __name__ == "__main__":
    main()
