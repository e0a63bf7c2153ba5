"""Bodies made ready for the interpreter."""

from __future__ import annotations

from ptx_executor.body import Body
from ptx_executor.build import interpreter
from ptx_executor.errors import PtxError


def link(body: Body, entry: str):
    """The interpreter's program. Raises PtxError for an instruction that it does not know."""
    native = interpreter()
    instructions = [
        (
            i.opcode,
            [(kind, value & (2**64 - 1), offset) for kind, value, offset in i.operands],
            i.guard,
            i.negated,
            i.target,
            i.reconvergence,
        )
        for i in body.instructions
    ]
    try:
        return native.Program(body.widths, instructions)
    except native.UnknownInstruction as unknown:
        what, at = unknown.args
        raise PtxError(what, entry, body.instructions[at].line, body.instructions[at].source) from None
