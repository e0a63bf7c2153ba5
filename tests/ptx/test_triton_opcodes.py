"""Instructions that Triton's PTX has and nvcc's has not, against what the PTX manual says of them."""

import struct

import pytest
import torch
from ptx_executor import Memory, Module, launch

HEADER = ".version 8.7\n.target sm_100a\n.address_size 64\n"


def computed(body, kind, *operands):
    """The 64 bits that `body` leaves in %rd9, from operands in %rd1, %rd2, ...; packed as `kind` says."""
    result = torch.zeros(1, dtype=torch.int64)
    memory = Memory()
    loads = "".join(f"ld.param.b64 %rd{i}, [p{i}];\n" for i in range(len(operands) + 1))
    text = (
        f"{HEADER}.visible .entry k({', '.join(f'.param .b64 p{i}' for i in range(len(operands) + 1))})\n"
        f"{{\n.reg .b16 %rs<4>;\n.reg .b32 %r<10>;\n.reg .b64 %rd<10>;\n{loads}{body}\n"
        "st.global.b64 [%rd0], %rd9;\nret;\n}\n"
    )
    parameters = struct.pack("<Q", memory.allocate(result, "result", initialised=False)) + b"".join(operands)
    launch(Module.parse(text), "k", (1, 1, 1), (1, 1, 1), parameters, 0, memory)
    return struct.unpack(kind, result.numpy().tobytes())


@pytest.mark.parametrize(
    ("opcode", "value", "start", "length", "expected"),
    [
        ("bfe.u32", 0xABCD1234, 8, 8, 0x12),
        ("bfe.u32", 0xABCD1234, 28, 8, 0xA),  # beyond the last bit are zeros
        ("bfe.u32", 0xABCD1234, 40, 8, 0),
        ("bfe.u32", 0xABCD1234, 0, 32, 0xABCD1234),
        ("bfe.u32", 0xABCD1234, 4, 0, 0),
        ("bfe.s32", 0xABCD1234, 5, 1, 0xFFFFFFFF),
        ("bfe.s32", 0xABCD1234, 4, 4, 3),
        ("bfe.s32", 0xABCD1234, 28, 8, 0xFFFFFFFA),  # beyond the last bit is the last bit
        ("bfe.s32", 0xABCD1234, 33, 2, 0xFFFFFFFF),
        ("bfe.s32", 0x80000000, 3, 0, 0),
    ],
)
def test_bit_fields(opcode, value, start, length, expected):
    body = f"cvt.u32.u64 %r1, %rd1;\n{opcode} %r2, %r1, {start}, {length};\nmov.b64 %rd9, {{%r2, %r2}};"
    assert computed(body, "<II", struct.pack("<Q", value)) == (expected, expected)


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (8, 4, 0xABCD1F34),
        (28, 8, 0xFBCD1234),  # beyond the last bit nothing is inserted
        (40, 8, 0xABCD1234),
        (0, 32, 0xFFFFFFFF),
        (4, 0, 0xABCD1234),
        (260, 257, 0xABCD1234 | 0x10),  # the counts are the last bytes
    ],
)
def test_inserted_bits(start, length, expected):
    body = f"cvt.u32.u64 %r1, %rd1;\nbfi.b32 %r2, -1, %r1, {start}, {length};\nmov.b64 %rd9, {{%r2, %r2}};"
    assert computed(body, "<II", struct.pack("<Q", 0xABCD1234)) == (expected, expected)


def test_bit_fields_of_64():
    body = "bfe.s64 %rd9, %rd1, 31, 1;"
    assert computed(body, "<q", struct.pack("<Q", 1 << 31)) == (-1,)
    assert computed(body, "<q", struct.pack("<Q", 1 << 30)) == (0,)


@pytest.mark.parametrize(
    ("opcode", "operands", "expected"),
    [
        ("add.f32x2", ((1.5, -2.0), (0.25, 8.0)), (1.75, 6.0)),
        ("sub.f32x2", ((1.5, -2.0), (0.25, 8.0)), (1.25, -10.0)),
        ("mul.f32x2", ((1.5, -2.0), (0.25, 8.0)), (0.375, -16.0)),
        ("fma.rn.f32x2", ((1 + 2.0**-12, 3.0), (1 - 2.0**-12, 5.0), (-1.0, 7.0)), (-(2.0**-24), 22.0)),
    ],
)
def test_pairs(opcode, operands, expected):
    registers = ", ".join(f"%rd{i + 1}" for i in range(len(operands)))
    packed = [struct.pack("<ff", *operand) for operand in operands]
    assert computed(f"{opcode} %rd9, {registers};", "<ff", *packed) == expected


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_sums_of_mixed_types(kind):
    """The 16-bit operand loses nothing: the sum is float32's."""
    value = torch.tensor([1.5], dtype={"f16": torch.float16, "bf16": torch.bfloat16}[kind]).view(torch.int16).item()
    body = (
        f"mov.b16 %rs1, {value};\ncvt.u32.u64 %r1, %rd1;\n"
        f"add.rn.f32.{kind} %r2, %rs1, %r1;\nmov.b64 %rd9, {{%r2, %r2}};"
    )
    assert computed(body, "<ff", struct.pack("<fI", 2.0**-20, 0)) == (1.5 + 2.0**-20,) * 2
