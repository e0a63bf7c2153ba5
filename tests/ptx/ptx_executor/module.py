"""PTX modules: entries with their parameters, shared memory and instructions."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from ptx_executor.body import Body, Instruction, decode
from ptx_executor.errors import PtxError
from ptx_executor.linking import link

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ENTRY = re.compile(r"(?:\.visible\s+|\.weak\s+)?\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>[a-z]+\d+)(?:\s+\.ptr)?(?:\s+\.global)?"
    r"(?:\s+\.align\s+(?P<pointee>\d+))?\s+(?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?"
)
_SHARED = re.compile(
    r"(?P<extern>\.extern\s+)?\.shared\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>[a-z]+\d+)\s+(?P<name>[\w$]+)\[(?P<count>\d*)\]"
)
_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"(?:\s+"([^"]*)")?', re.MULTILINE)
_BODIES = re.compile(r"[{}]")


@dataclass(frozen=True)
class Parameter:
    name: str
    offset: int  # bytes from the start of the parameter block
    size: int  # bytes
    alignment: int


@dataclass(frozen=True, eq=False)
class Entry:
    """A `.entry`. Its instructions are decoded when they are first needed."""

    name: str
    line: int  # of the PTX text
    parameters: tuple[Parameter, ...]
    max_threads: tuple[int, int, int] | None  # .maxntid
    required_threads: tuple[int, int, int] | None  # .reqntid
    module: Module = field(repr=False)
    span: tuple[int, int] = field(repr=False)  # of the body in the module's text

    @property
    def parameter_bytes(self) -> int:
        """The size of the whole parameter block: what `launch` expects."""
        return max((p.offset + p.size for p in self.parameters), default=0)

    @property
    def static_shared_bytes(self) -> int:
        """Shared memory beside the dynamic part."""
        return self.module.static_shared_bytes

    @cached_property
    def body(self) -> Body:
        """The decoded instructions."""
        start, end = self.span
        symbols = {p.name: p.offset for p in self.parameters} | self.module.shared
        line_of = self.module.line_of
        try:
            return decode(self.module.text[start:end], symbols, self.module.files, lambda at: line_of(start + at))
        except PtxError as error:
            raise PtxError(error.what, self.name, error.line) from None

    @cached_property
    def program(self):
        """The instructions as the interpreter runs them."""
        return link(self.body, self.name)

    def changed(self, change: Callable[[list[Instruction]], None]) -> Entry:
        """An entry whose instructions `change` has changed; there must be as many of them."""
        body, entry = self.body, replace(self)
        instructions = [replace(instruction) for instruction in body.instructions]
        change(instructions)
        entry.__dict__["body"] = replace(body, instructions=instructions)
        return entry


@dataclass(frozen=True, eq=False)
class Module:
    """A PTX text."""

    text: str = field(repr=False)  # without comments, lines as they were
    target: str  # "sm_90"
    version: tuple[int, int]  # .version
    files: dict[int, str] = field(repr=False)  # of .file
    shared: dict[str, int]  # offsets of shared variables; dynamic shared memory follows the static one
    static_shared_bytes: int
    entries: dict[str, Entry] = field(default_factory=dict, repr=False)

    @staticmethod
    def parse(text: str) -> Module:
        """Raises PtxError where the text is not understood; an entry's body when the entry is first launched."""
        text = _COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text)
        target, version = re.search(r"\.target\s+(\w+)", text), re.search(r"\.version\s+(\d+)\.(\d+)", text)
        if not target or not version:
            raise PtxError("not a PTX text: .target or .version is missing")
        files = {int(number): f"{first}/{second}" if second else first for number, first, second in _FILE.findall(text)}
        shared, static_bytes = _shared_variables(text)
        module = Module(text, target[1], (int(version[1]), int(version[2])), files, shared, static_bytes)
        for match in _ENTRY.finditer(text):
            module.entries[match[1]] = _entry(module, match)
        return module

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def line_of(self, position: int) -> int:
        """The line, from 1, of a position in the text."""
        return bisect_right(self._line_starts, position)

    def with_entry(self, entry: Entry) -> Module:
        """The module with another entry in the place of its namesake."""
        return replace(self, entries=self.entries | {entry.name: entry})

    def entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise PtxError(f"no entry of that name; there are {sorted(self.entries)}", name)
        return self.entries[name]


def _bytes_of(type_name: str) -> int:
    return int(type_name.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _shared_variables(text: str) -> tuple[dict[str, int], int]:
    """Offsets of all shared variables, and the bytes of those that are not `.extern`."""
    shared: dict[str, int] = {}
    offset, dynamic = 0, []
    for match in _SHARED.finditer(text):
        alignment = int(match["align"] or _bytes_of(match["type"]))
        if match["extern"]:
            dynamic.append((match["name"], alignment))
            continue
        offset = shared[match["name"]] = _aligned(offset, alignment)
        offset += int(match["count"] or 1) * _bytes_of(match["type"])
    for name, alignment in dynamic:
        shared[name] = _aligned(offset, alignment)
    return shared, offset


def _entry(module: Module, match: re.Match) -> Entry:
    name, parameters, directives = match.groups()
    line = module.line_of(match.start())
    offset, found = 0, []
    for text in filter(None, (part.strip() for part in parameters.split(","))):
        parameter = _PARAMETER.fullmatch(text)
        if not parameter:
            raise PtxError(f"a parameter that is not understood: {text!r}", name, line)
        element = _bytes_of(parameter["type"])
        alignment = int(parameter["align"] or element)
        offset = _aligned(offset, alignment)
        size = element * int(parameter["count"] or 1)
        found.append(Parameter(parameter["name"], offset, size, alignment))
        offset += size
    threads = {
        kind: tuple([*map(int, sizes.split(",")), 1, 1][:3])
        for kind, sizes in re.findall(r"\.(maxntid|reqntid)\s+([\d, ]+)", directives)
    }
    end = _end_of_body(module.text, match.end())
    return Entry(name, line, tuple(found), threads.get("maxntid"), threads.get("reqntid"), module, (match.end(), end))


def _end_of_body(text: str, start: int) -> int:
    depth = 1
    for brace in _BODIES.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise PtxError("a body without an end")
