"""The executor by itself: kernels of a few instructions, each of which breaks one rule or computes one thing."""

import struct

import pytest
import torch
from ptx_executor import Memory, Module, PtxError, launch

KERNEL = """
.version 9.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry kernel(.param .u64 from, .param .u64 to)
{{
    .reg .pred %p<8>;
    .reg .b16 %h<8>;
    .reg .f32 %f<16>;
    .reg .b32 %r<32>;
    .reg .b64 %d<16>;
    ld.param.u64 %d1, [from];
    ld.param.u64 %d2, [to];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    mul.wide.u32 %d3, %r0, 4;
    add.s64 %d1, %d1, %d3;  // the thread's words
    add.s64 %d2, %d2, %d3;
    shl.b32 %r2, %r0, 2;
    mov.u32 %r3, dynamic;
    add.s32 %r2, %r2, %r3;  // its word of shared memory
    {body}
    ret;
}}
"""


def run(body, source=None, **options):
    """What a kernel leaves in `to`, a word for each thread; `from` holds 0, 1, 2 … unless given."""
    return run_and_count(body, source, **options)[0]


def run_and_count(body, source=None, threads=32, blocks=1, order=0, follows=False, words=1):
    """What `run` returns, and the counts. Shared memory holds `words` for each thread."""
    module = Module.parse(KERNEL.format(body=body))
    source = torch.arange(threads, dtype=torch.int32) if source is None else source
    result = torch.full((threads,), -1, dtype=torch.int32)
    memory = Memory()
    addresses = memory.allocate(source, "from", writable=False), memory.allocate(result, "to", initialised=False)
    parameters = struct.pack("<QQ", *addresses)
    grid, block, shared = (blocks, 1, 1), (threads, 1, 1), 4 * threads * words
    counts = launch(module, "kernel", grid, block, parameters, shared, memory, order=order, follows=follows)
    return result, counts


STORE_R = "st.global.u32 [%d2], %r10;"
BROKEN = {
    "a misaligned access of 4 bytes": "ld.global.u32 %r10, [%d1+2];",
    "an access of bytes 128 to 132 of from": "ld.global.u32 %r10, [%d1+4];",
    "an access of bytes 128 to 132 of shared": "ld.shared.u32 %r10, [%r2+4];",
    "outside of every allocation": "ld.global.u32 %r10, [4];",
    "a write to from, which is read-only": "st.global.u32 [%d1], %r0;",
    "a result computed from what nothing has written": f"ld.shared.u32 %r9, [%r2]; add.s32 %r10, %r9, 1; {STORE_R}",
    "an address computed from what nothing has written": "ld.global.u32 %r9, [%d2]; ld.shared.u32 %r10, [%r9];",
    "a predicate computed from what nothing": "ld.shared.u32 %r9, [%r2]; setp.eq.s32 %p1, %r9, 0; @%p1 mov.u32 %r9, 1;",
    "a read after a write of warp 0, lane 1 without bar.warp.sync": "st.shared.u32 [%r2], %r0; xor.b32 %r9, %r2, 4; "
    "ld.shared.u32 %r10, [%r9];",
    "a write after a write of warp 0, lane 0 without bar.warp.sync": "st.shared.u32 [dynamic], %r0;",
    "a read as constant of what the launch writes": f"mov.u32 %r10, 1; {STORE_R} ld.global.nc.u32 %r9, [%d2];",
    "a collective of part of a warp": "setp.lt.s32 %p1, %r0, 9; @%p1 bar.warp.sync -1;",
    "a collective whose member mask": "bar.warp.sync 1;",
    "a barrier of part of a warp": "setp.lt.s32 %p1, %r0, 9; @!%p1 bra over; bar.sync 0; over:",
    "a read of what a cp.async that is not waited for": "and.b32 %r9, %r2, 112; and.b64 %d4, %d1, -16; "
    "setp.eq.s32 %p1, %r0, 0; @%p1 cp.async.cg.shared.global [%r9], [%d4], 16; ld.shared.u32 %r10, [%r9];",
    "leaves with a cp.async not waited for": "setp.eq.s32 %p1, %r0, 0; "
    "@%p1 cp.async.cg.shared.global [%r3], [%d1], 16;",
    "a division by zero": "mov.u32 %r9, 0; div.s32 %r10, %r0, %r9;",
    "an unknown instruction frob.u32": "frob.u32 %r10, %r0;",
    "an unknown instruction add.sat.s32": "add.sat.s32 %r10, %r0, %r0;",
    "an unknown register or symbol %clock": "mov.u32 %r10, %clock;",
    "an operand of 64 bits": "add.s32 %r10, %r0, %d1;",
    "a block that does not end": "again: bra again;",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_an_error(what):
    with pytest.raises(PtxError) as caught:
        run(BROKEN[what])
    assert what in str(caught.value)
    assert caught.value.kernel == "kernel"
    assert caught.value.line


def test_warps_that_race():
    store, other = "st.shared.u32 [%r2], %r0;", "xor.b32 %r9, %r2, 128; ld.shared.u32 %r10, [%r9];"
    ordered = f"{store} bar.sync 0; {other} {STORE_R}"
    assert run(ordered, threads=64).tolist() == [i ^ 32 for i in range(64)]
    with pytest.raises(PtxError, match=r"warp 0, lane 0 without a barrier between.*block .0, 0, 0., warp 1, lane 0"):
        run(f"{ordered} {store}", threads=64)


def test_a_barrier_that_a_warp_does_not_reach():
    with pytest.raises(PtxError, match="not every warp"):
        run("setp.ge.s32 %p1, %r0, 32; @%p1 ret; bar.sync 0;", threads=64)


def test_blocks_that_write_the_same_place():
    with pytest.raises(PtxError, match=r"a write after a write of another block.*block .1, 0, 0."):
        run(f"mov.u32 %r10, 5; {STORE_R}", blocks=2)


WAIT = "griddepcontrol.launch_dependents; griddepcontrol.wait;"


def test_a_launch_that_follows_another_waits_for_it():
    copy = f"ld.global.u32 %r10, [%d1]; {STORE_R}"
    assert run(f"{WAIT} {copy}", follows=True).tolist() == run(copy).tolist() == list(range(32))
    for body in (copy, f"ld.global.nc.u32 %r10, [%d1]; {WAIT}", f"st.global.u32 [%d2], %r0; {WAIT}"):
        with pytest.raises(PtxError, match=r"before griddepcontrol.wait.*warp 0, lane 0"):
            run(body, follows=True)
    with pytest.raises(PtxError, match=r"leaves without griddepcontrol.wait.*lane 8"):
        run("setp.ge.u32 %p1, %r0, 8; @%p1 ret; griddepcontrol.wait;", follows=True)


def test_errors_name_lines_of_the_ptx():
    with pytest.raises(PtxError) as caught:
        run("ld.global.u32 %r10, [%d1+2];")
    text = KERNEL.format(body="ld.global.u32 %r10, [%d1+2];")
    assert "[%d1+2]" in text.split("\n")[caught.value.line - 1]
    assert (caught.value.block, caught.value.warp, caught.value.lane) == ((0, 0, 0), 0, 0)


# What a warp executes: the wavefronts that it takes, and how many of them are for conflicts.
WAVEFRONTS = {
    "st.shared.u32 [%r2], %r0;": (1, 0),
    "ld.shared.u32 %r9, [%r3];": (1, 0),  # one word for all lanes
    "shl.b32 %r9, %r2, 1; st.shared.u32 [%r9], %r0;": (2, 1),
    "shl.b32 %r9, %r2, 5; st.shared.u32 [%r9], %r0;": (32, 31),
    "shl.b32 %r9, %r2, 1; st.shared.v2.u32 [%r9], {%r0, %r0};": (2, 0),
    "shl.b32 %r9, %r2, 2; st.shared.v2.u32 [%r9], {%r0, %r0};": (4, 2),
    "setp.lt.u32 %p1, %r0, 4; shl.b32 %r9, %r2, 1; @%p1 st.shared.v2.u32 [%r9], {%r0, %r0};": (1, 0),
    "shl.b32 %r9, %r2, 2; and.b64 %d4, %d1, -16; cp.async.cg.shared.global [%r9], [%d4], 16; cp.async.wait_all;": (
        4,
        0,
    ),
    # Every second lane writes zeros, and reads nothing.
    "shl.b32 %r9, %r2, 2; and.b64 %d4, %d1, -16; and.b32 %r8, %r0, 1; shl.b32 %r8, %r8, 4; "
    "cp.async.cg.shared.global [%r9], [%d4], 16, %r8; cp.async.wait_all;": (4, 0),
    "shl.b32 %r9, %r2, 3; and.b64 %d4, %d1, -16; mov.u32 %r8, 0; "
    "cp.async.cg.shared.global [%r9], [%d4], 16, %r8; cp.async.wait_all;": (8, 4),
}


@pytest.mark.parametrize("body", WAVEFRONTS)
def test_wavefronts_of_shared_memory(body):
    _, counts = run_and_count(body, words=32)
    assert (counts.wavefronts.sum(), counts.conflicts.sum()) == WAVEFRONTS[body]


LOOP = """
    mov.u32 %r10, 0;
    mov.u32 %r9, %r0;
loop:
    setp.eq.s32 %p1, %r9, 0;
    @%p1 bra done;
    and.b32 %r8, %r9, 1;
    setp.eq.s32 %p2, %r8, 0;
    @%p2 bra even;
    add.s32 %r10, %r10, %r9;
    bra.uni next;
even:
    add.s32 %r10, %r10, 100;
next:
    sub.s32 %r9, %r9, 1;
    bra loop;
done:
    bar.warp.sync -1;
    st.global.u32 [%d2], %r10;
"""


@pytest.mark.parametrize("order", [0, 1, 2])
def test_lanes_diverge_and_meet_again(order):
    expected = [sum(i if i % 2 else 100 for i in range(1, n + 1)) for n in range(32)]
    assert run(LOOP, order=order).tolist() == expected


# Signed words in, signed words out, by thread.
COMPUTED = {
    # Byte 0 is the sign of byte 7 of {b, a}, byte 1 is a's byte 0, byte 2 is a's byte 1, byte 3 is b's byte 0.
    "prmt.b32 %r10, %r9, 0x11223344, 0x410F;": lambda x: [0x44000000 | (v & 0xFFFF) << 8 for v in x],
    "shfl.sync.bfly.b32 %r10, %r9, 3, 31, -1;": lambda x: [x[i ^ 3] for i in range(32)],
    "shfl.sync.idx.b32 %r10, %r9, 5, 6175, -1;": lambda x: [x[i // 8 * 8 + 5] for i in range(32)],
    "shfl.sync.down.b32 %r10, %r9, 4, 31, -1;": lambda x: [x[i + 4] if i < 28 else x[i] for i in range(32)],
    "shr.s32 %r10, %r9, 40;": lambda x: [-1 if v < 0 else 0 for v in x],
    "mul.hi.s32 %r10, %r9, 1000000007;": lambda x: [v * 1000000007 >> 32 for v in x],
    "cvt.s8.s32 %h1, %r9; cvt.s32.s16 %r10, %h1;": lambda x: [(v + 128) % 256 - 128 for v in x],
    "shf.l.wrap.b32 %r10, %r9, 7, 35;": lambda x: [7 << 3 | (v & 0xFFFFFFFF) >> 29 for v in x],
}


@pytest.mark.parametrize("body", COMPUTED)
def test_integers(body):
    values = torch.randint(-(2**31), 2**31, (32,), generator=torch.Generator().manual_seed(0)).int()
    assert run(f"ld.global.u32 %r9, [%d1]; {body} {STORE_R}", values).tolist() == COMPUTED[body](values.tolist())


def floats(body, values):
    source = values.float().view(torch.int32)
    return run(f"ld.global.f32 %f1, [%d1]; {body} st.global.f32 [%d2], %f2;", source).view(torch.float32)


VALUES = torch.randn(32, generator=torch.Generator().manual_seed(1)) * 10.0 ** torch.linspace(-30, 30, 32)


def test_rounding_down():
    """fma.rm: the largest float32 that is not above the exact result."""
    exact = VALUES.double() * VALUES.double() + 1
    result = floats("fma.rm.f32 %f2, %f1, %f1, 0f3F800000;", VALUES)
    assert (result.double() <= exact).all()
    assert (torch.nextafter(result, torch.tensor(torch.inf)).double() > exact).all()


@pytest.mark.parametrize(("name", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_16_bits(name, dtype):
    values = torch.cat([VALUES[8:24], torch.tensor([0.0, -0.0, torch.inf, 65504.0, 65519.0, 65520.0, 2.9e-8, 3.1e-8])])
    values = torch.cat([values, values])[:32]
    result = floats(f"cvt.rn.{name}.f32 %h1, %f1; cvt.f32.{name} %f2, %h1;", values)
    assert torch.equal(result, values.to(dtype).float())


# Within the manual's bounds, in units in the last place, and not better everywhere: nothing may rely on more.
@pytest.mark.parametrize(
    ("body", "units", "exact"),
    [
        ("ex2.approx.ftz.f32 %f2, %f1;", 4, torch.exp2),
        ("rcp.approx.ftz.f32 %f2, %f1;", 1, torch.reciprocal),
        ("div.full.f32 %f2, 0f3F800000, %f1;", 2, torch.reciprocal),
        ("div.approx.f32 %f2, 0f3F800000, %f1;", 2, torch.reciprocal),
    ],
)
def test_approximations(body, units, exact):
    values = torch.randn(32, generator=torch.Generator().manual_seed(2)).abs() + 0.5
    expected = exact(values.double())
    unit = torch.nextafter(expected.float(), torch.tensor(torch.inf)).double() - expected.float().double()
    error = (floats(body, values).double() - expected).abs() / unit
    assert error.max() <= units
    assert error.max() > 0.5


def test_special_registers_in_three_dimensions():
    body = "mov.u32 %r8, %tid.y; mov.u32 %r9, %tid.z; mad.lo.s32 %r10, %r8, 10, %r0; mad.lo.s32 %r10, %r9, 100, %r10;"
    text = KERNEL.format(
        body=f"{body} mul.wide.u32 %d4, %laneid, 4; sub.s64 %d2, %d2, %d3; add.s64 %d2, %d2, %d4; {STORE_R}"
    )
    memory, result = Memory(), torch.zeros(32, dtype=torch.int32)
    address = memory.allocate(result, "to")
    launch(Module.parse(text), "kernel", (1, 1, 1), (4, 4, 2), struct.pack("<QQ", address, address), 0, memory)
    assert result.tolist() == [x + 10 * y + 100 * z for z in range(2) for y in range(4) for x in range(4)]


def test_products_of_matrices():
    """mma.sync and ldmatrix are tested by the kernels; here the sum is rounded towards zero, and once."""
    one, tiny = "1006648320", "0f33000000"  # two values of 1 in float16; 2^-25
    body = f"""
        mov.u32 %r9, {one};
        mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {{{{%f1, %f2, %f3, %f4}}}}, {{{{%r9, %r9}}}}, {{{{%r9}}}},
            {{{{{tiny}, {tiny}, {tiny}, {tiny}}}}};
        st.global.f32 [%d2], %f1;"""
    assert (run(body.format()).view(torch.float32) == 8).all()
