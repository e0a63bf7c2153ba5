"""How a route travels where blocks take no argument in which it could: it is noted for the time of the owner's call.

The owner's hooks write the note and take it away; a hook of each attention inside reads it and hands it on as the
keyword that it would have come in. Activation checkpointing runs blocks again when the owner has long returned, on
another thread perhaps: so it gets functions that bring the note of their first run along. Notes are of one thread and
lie on each other: owners inside owners, and two sizes in turns, see their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from .grids import Arguments
from .routing import ROUTE, Route

if TYPE_CHECKING:
    from .hooks import Control

CHECKPOINT = "_gradient_checkpointing_func"  # what diffusers' modules call a block by, as checkpoint(block, *args)


class Note(NamedTuple):
    """The route of a call of an owner, and the note that lies below."""

    owner: nn.Module
    route: Route
    below: Note | None


class NotedCheckpoint:
    """Stands before an owner's checkpointing function: blocks run with the note of their first run, every time."""

    def __init__(self, control: Control, function: Callable[..., Any]) -> None:
        self.control = control
        self.function = function

    def __call__(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.function(NotedBlock(self.control, block, self.control.now.note), *args, **kwargs)


class NotedBlock:
    """A block that is called under a note."""

    def __init__(self, control: Control, block: Callable[..., Any], note: Note | None) -> None:
        self.control = control
        self.block = block
        self.note = note

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now = self.control.now
        before, now.note = now.note, self.note
        try:
            return self.block(*args, **kwargs)
        finally:
            now.note = before


def write_note(control: Control, owner: nn.Module, route: Route) -> None:
    """At the beginning of a call of the owner."""
    function = getattr(owner, CHECKPOINT, None)  # enable_gradient_checkpointing may have been called since
    if function is not None and not isinstance(function, NotedCheckpoint):
        setattr(owner, CHECKPOINT, NotedCheckpoint(control, function))
    control.now.note = Note(owner, route, control.now.note)


class EraseNote:
    """Forward hook of an owner, called after an exception too, be it before the note was written."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def __call__(self, owner: nn.Module, args: Any, output: Any) -> None:
        note = self.control.now.note
        if note is not None and note.owner is owner:
            self.control.now.note = note.below


class ReadNote:
    """Forward pre-hook of a replaced attention: hands on the route of the owner that it is called in."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def __call__(self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        note = self.control.now.note
        return None if note is None else (args, {**kwargs, ROUTE: note.route})


def forget_notes(owner: nn.Module) -> None:
    """Give an owner its checkpointing function back."""
    function = getattr(owner, CHECKPOINT, None)
    if isinstance(function, NotedCheckpoint):
        setattr(owner, CHECKPOINT, function.function)
