"""PTX modules: entries with their parameters, shared memory and instructions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    name: str
    offset: int  # bytes from the start of the parameter block
    size: int  # bytes
    alignment: int


@dataclass(frozen=True)
class Entry:
    """A `.entry`. Its instructions are decoded when they are first needed."""

    name: str
    line: int  # of the PTX text
    parameters: tuple[Parameter, ...]
    max_threads: tuple[int, int, int] | None  # .maxntid
    required_threads: tuple[int, int, int] | None  # .reqntid

    @property
    def parameter_bytes(self) -> int:
        """The size of the whole parameter block: what `launch` expects."""
        raise NotImplementedError

    @property
    def static_shared_bytes(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class Module:
    target: str  # "sm_90"
    version: tuple[int, int]  # .version
    entries: dict[str, Entry]

    @staticmethod
    def parse(text: str) -> Module:
        """Raises PtxError where the text is not understood; an entry's body when the entry is first launched."""
        raise NotImplementedError
