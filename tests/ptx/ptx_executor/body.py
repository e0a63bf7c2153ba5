"""The body of an entry, decoded: registers, instructions with their operands, branches with reconvergence points."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ptx_executor.control_flow import reconvergence_points
from ptx_executor.errors import PtxError

# What stands at the start of a statement decides what it is; braces within one enclose a vector.
_STATEMENT = re.compile(
    r"\s*(?:(?P<label>[\w$%]+)\s*:(?!:)|(?P<open>\{)|(?P<close>\})|\.loc\s+(?P<loc>\d+\s+\d+)[^\n]*"
    r"|(?P<skipped>\.pragma[^;]*;)|\.reg\s+\.(?P<type>\w+)\s+(?P<registers>[^;]*);"
    r"|\.shared[^;]*;|(?:@(?P<negated>!?)(?P<guard>[%\w$]+)\s+)?(?P<opcode>[a-z][\w.:]*)(?P<operands>[^;]*);)"
)
_OPERAND = re.compile(r"\[[^\]]*\]|\{[^}]*\}|[^,\s][^,]*")
_ADDRESS = re.compile(r"\[\s*([\w$%.]+)\s*(?:\+\s*(-?\d+))?\s*\]")
_SPECIAL = re.compile(r"%(?:n?tid|n?ctaid)\.[xyz]|%laneid")

# Kinds of operands, as native/instruction.h numbers them.
REGISTER, IMMEDIATE, ADDRESS, SINK = range(4)


class Operand(NamedTuple):
    """A register by index, an immediate by its bits, an address as register (-1: none) and offset, or a `_`."""

    kind: int
    value: int
    offset: int = 0


@dataclass
class Instruction:
    opcode: str
    operands: list[Operand]
    line: int
    source: str  # "file:line" by .loc
    guard: int = -1  # register of the predicate
    negated: bool = False
    label: str = ""  # where a branch goes
    target: int = -1  # index of that instruction
    reconvergence: int = -1  # index of the instruction where diverged lanes meet again; the end if none


@dataclass
class Body:
    widths: list[int] = field(default_factory=list)  # bytes of each register; 0: a predicate
    special: dict[str, int] = field(default_factory=dict)  # "%tid.x" and the register that holds it
    instructions: list[Instruction] = field(default_factory=list)


class _Decoder:
    def __init__(self, symbols: dict[str, int], files: dict[int, str]):
        self.body = Body()
        self.symbols, self.files = symbols, files
        self.scopes: list[dict[str, int]] = [{}]  # registers by name, innermost last
        self.labels: dict[str, int] = {}
        self.source = ""

    def declare(self, type_name: str, names: str) -> None:
        width = 0 if type_name == "pred" else int(type_name.lstrip("bsuf")) // 8
        for name in (part.strip() for part in names.split(",")):
            counted = re.fullmatch(r"(.*)<(\d+)>", name)
            for each in [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [name]:
                self.scopes[-1][each] = self._new_register(width)

    def _new_register(self, width: int) -> int:
        self.body.widths.append(width)
        return len(self.body.widths) - 1

    def register(self, name: str) -> int | None:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        if _SPECIAL.fullmatch(name):
            self.scopes[0][name] = self.body.special[name] = self._new_register(4)
            return self.scopes[0][name]
        return None

    def scalar(self, text: str) -> Operand:
        register = self.register(text)
        if register is not None:
            return Operand(REGISTER, register)
        if text == "_":
            return Operand(SINK, 0)
        if text[:2] in ("0f", "0d", "0F", "0D"):
            return Operand(IMMEDIATE, int(text[2:], 16))
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
            return Operand(IMMEDIATE, int(text.rstrip("U"), 0) & (2**64 - 1))
        if text in self.symbols:
            return Operand(IMMEDIATE, self.symbols[text])
        raise PtxError(f"an unknown register or symbol {text}")

    def address(self, text: str) -> Operand:
        match = _ADDRESS.fullmatch(text)
        if not match:
            raise PtxError(f"an address that is not understood: {text}")
        base, offset = self.scalar(match[1]), int(match[2] or 0)
        if base.kind == REGISTER:
            return Operand(ADDRESS, base.value, offset)
        return Operand(ADDRESS, -1, base.value + offset)

    def operands(self, opcode: str, text: str) -> tuple[str, list[Operand]]:
        """The opcode, extended by the shape of what it packs, and all operands in one list."""
        found: list[Operand] = []
        for part in (match[0].strip() for match in _OPERAND.finditer(text)):
            if part[0] == "[":
                found.append(self.address(part))
            elif part[0] == "{":
                values = [self.scalar(value.strip()) for value in part[1:-1].split(",")]
                if opcode.startswith("mov."):
                    opcode += f".{'pack' if found else 'unpack'}{len(values)}"
                found += values
            else:
                found += [self.scalar(value.strip()) for value in part.split("|")]
                if opcode.startswith("shfl.") and len(found) == 1 and "|" not in part:
                    found.append(Operand(SINK, 0))
        if opcode.startswith("cp.async.c") and len(found) == 4:
            opcode += ".zfill"
        return opcode, found

    def instruction(self, match: re.Match, line: int) -> None:
        instruction = Instruction(match["opcode"], [], line, self.source)
        if match["guard"]:
            guard = self.register(match["guard"])
            if guard is None:
                raise PtxError(f"an unknown predicate {match['guard']}")
            instruction.guard, instruction.negated = guard, bool(match["negated"])
        if instruction.opcode in ("bra", "bra.uni"):
            instruction.opcode, instruction.label = "bra", match["operands"].strip()
        else:
            instruction.opcode, instruction.operands = self.operands(instruction.opcode, match["operands"])
        self.body.instructions.append(instruction)

    def statement(self, match: re.Match, line: int) -> None:
        if match["label"]:
            self.labels[match["label"]] = len(self.body.instructions)
        elif match["open"]:
            self.scopes.append({})
        elif match["close"]:
            self.scopes.pop()
        elif match["loc"]:
            file, source_line = map(int, match["loc"].split())
            self.source = f"{self.files.get(file, file)}:{source_line}"
        elif match["type"]:
            self.declare(match["type"], match["registers"])
        elif match["opcode"]:
            self.instruction(match, line)

    def resolve_branches(self) -> None:
        for instruction in self.body.instructions:
            if instruction.label:
                if instruction.label not in self.labels:
                    raise PtxError(f"an unknown label {instruction.label}", line=instruction.line)
                instruction.target = self.labels[instruction.label]
        for at, meet in reconvergence_points(self.body.instructions).items():
            self.body.instructions[at].reconvergence = meet


def decode(text: str, symbols: dict[str, int], files: dict[int, str], line_of: Callable[[int], int]) -> Body:
    """`symbols`: offsets of parameters and shared variables; `line_of`: the line of a position in `text`."""
    decoder = _Decoder(symbols, files)
    end = len(text.rstrip())
    position = 0
    while position < end:
        match = _STATEMENT.match(text, position)
        start = position + len(text[position:end]) - len(text[position:end].lstrip()) if not match else match.start()
        if not match:
            raise PtxError(f"a statement that is not understood: {text[start : start + 60]!r}", line=line_of(start))
        if match["opcode"]:
            line = line_of(match.start("opcode"))
            try:
                decoder.statement(match, line)
            except PtxError as error:
                raise PtxError(error.what, line=line) from None
        else:
            decoder.statement(match, 0)
        position = match.end()
    decoder.resolve_branches()
    return decoder.body
