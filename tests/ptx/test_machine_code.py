"""The comparison of PTX with machine code finds loops and sorts instructions."""

import pytest
from machine_code import (
    CLASSES,
    FLOATS,
    GLOBAL,
    INTEGERS,
    MOVES,
    MULTIPLY_ADDS,
    PREDICATES,
    PRODUCTS,
    PTX_CLASSES,
    SASS_CLASSES,
    SHARED,
    class_of,
    classified,
    guarded,
    instructions_of_ptx,
    instructions_of_sass,
    main_loop,
)
from ptx_executor import Module

# A loop of three products, around one of two and before another of two that has fewer instructions.
LISTING = """
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0010*/                   IADD3 R1, R1, 0x1, RZ ;
.L_x_1:
        /*0020*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0030*/                   HMMA.16816.F32 R4, R8, R14, R4 ;
        /*0040*/               @P1 LDS.64 R8, [R2+0x10] ;
        /*0050*/                   ISETP.NE.AND P0, PT, R1, RZ, PT ;
        /*0060*/               @P0 BRA `(.L_x_1) ;
        /*0068*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*006c*/               @P1 BRA `(.L_x_0) ;
.L_x_2:
        /*0070*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0080*/              @!P2 HMMA.16816.F32 R4, R8, R14, R4 ;
        /*0090*/               @P0 BRA `(.L_x_2) ;
        /*00a0*/              @!P3 BRA `(.L_x_4) ;
        /*00b0*/               @P1 BRA `(.L_x_3) ;
.L_x_4:
        /*00c0*/                   EXIT ;
.L_x_3:
        /*00d0*/                   BRA `(.L_x_3);
"""


def test_the_main_loop_of_machine_code():
    instructions = instructions_of_sass(LISTING)
    assert len(instructions) == 16
    loop = main_loop(instructions, SASS_CLASSES, PRODUCTS)
    assert [instruction.opcode for instruction in loop] == ["HMMA.16816.F32", "HMMA.16816.F32", "BRA"]
    assert guarded(loop, SASS_CLASSES) == 1
    assert classified(instructions, SASS_CLASSES) == {PRODUCTS: 5, SHARED: 1, INTEGERS: 1, MOVES: 1, PREDICATES: 8}


PTX = """
.version 9.0
.target sm_90
.address_size 64
.visible .entry kernel(.param .u64 to)
{
    .reg .pred %p<3>;
    .reg .f32 %f<3>;
    .reg .b32 %r<3>;
again:
    add.s32 %r1, %r1, 1;
    fma.rn.f32 %f1, %f1, %f2, %f1;
    @%p1 ld.shared.f32 %f2, [%r1];
    setp.lt.s32 %p2, %r1, 9;
    @%p2 bra again;
    ret;
}
"""


def test_the_main_loop_of_ptx():
    loop = main_loop(instructions_of_ptx(Module.parse(PTX).entry("kernel")), PTX_CLASSES, MULTIPLY_ADDS)
    assert classified(loop, PTX_CLASSES) == {INTEGERS: 1, MULTIPLY_ADDS: 1, SHARED: 1, PREDICATES: 2}
    assert guarded(loop, PTX_CLASSES) == 1


SORTED = {
    PRODUCTS: ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "HMMA.16816.F32"),
    MULTIPLY_ADDS: ("fma.rn.f32", "FFMA"),
    FLOATS: ("add.f32", "fma.rn.f16x2", "div.rn.f32", "ex2.approx.ftz.f32", "FADD", "FFMA.RM", "FMUL.FTZ", "MUFU.EX2"),
    INTEGERS: ("mad.lo.s32", "mul.wide.u32", "and.b32", "shl.b64", "IMAD.WIDE.U32", "LEA.HI.X", "UIADD3", "LOP3.LUT"),
    MOVES: ("mov.b64", "cvt.f32.f16", "prmt.b32", "IMAD.MOV.U32", "R2UR", "HADD2.F32", "F2FP.BF16.F32.PACK_AB"),
    SHARED: ("ld.shared.v4.u32", "ldmatrix.sync.aligned.m8n8.x4.shared.b16", "bar.sync", "LDSM.16.M88.4", "STS.128"),
    GLOBAL: ("ld.global.nc.u32", "cp.async.wait_group", "ld.param.u64", "LDGSTS.E.BYPASS.128", "LDC.64", "ULDC"),
    PREDICATES: ("setp.lt.s32", "selp.b32", "and.pred", "bra", "PLOP3.LUT", "ISETP.GE.AND", "SEL", "BSYNC"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_instructions_are_sorted(name):
    for opcode in SORTED[name]:
        classes = SASS_CLASSES if opcode[0].isupper() else PTX_CLASSES
        assert class_of(opcode, classes) == name, opcode


@pytest.mark.parametrize(("opcode", "classes"), [("FROB.X", SASS_CLASSES), ("frob.u32", PTX_CLASSES)])
def test_an_unknown_instruction_is_an_error(opcode, classes):
    with pytest.raises(ValueError, match="no class"):
        class_of(opcode, classes)
