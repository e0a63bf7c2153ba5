"""Launches of an entry on the executor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptx_executor.body import Body
from ptx_executor.build import interpreter
from ptx_executor.errors import PtxError
from ptx_executor.memory import Memory
from ptx_executor.module import Entry, Module


@dataclass(frozen=True)
class Counts:
    """What the warps of a launch did, one value for each instruction of the entry, in PTX's order."""

    opcodes: list[str]
    lines: list[int]  # of the PTX text
    sources: list[str]  # "file:line" by .loc
    issued: np.ndarray  # times a warp executed it
    lanes: np.ndarray  # active lanes, summed over those
    wavefronts: np.ndarray  # of shared memory: 32 banks of 4 bytes
    conflicts: np.ndarray  # the wavefronts among these that bank conflicts cost
    sectors: np.ndarray  # of global memory: 32 bytes
    bytes: np.ndarray  # moved to or from shared or global memory
    blocks: int  # executed


def launch(
    module: Module,
    entry: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    parameters: bytes,
    shared_bytes: int,
    memory: Memory,
    *,
    order: int = 0,
    only_blocks: list[int] | None = None,
    follows: bool = False,
) -> Counts:
    """Run a grid. `parameters` is the parameter block (`Entry.parameter_bytes` long); `shared_bytes` the dynamic part.

    `order`: a seed of the order of blocks and of warps; 0 is ascending blocks, each warp until it must wait.
    `only_blocks`: linear indices of the blocks to run.
    `follows`: a launch that may still run until griddepcontrol.wait, which every thread must then execute, before it
    touches global memory. Raises PtxError.
    """
    found = module.entry(entry)
    _check_launch(found, block, parameters)
    native = interpreter()
    body = found.body
    outcome = native.run(
        found.program,
        memory.native,
        native.Launch(
            grid=grid,
            block=block,
            parameters=parameters,
            shared_bytes=found.static_shared_bytes + shared_bytes,
            order=order,
            only_blocks=only_blocks or [],
            follows=follows,
            special=list(body.special.items()),
        ),
    )
    if outcome.failure:
        raise _error(entry, body, outcome.failure)
    return Counts(
        [i.opcode for i in body.instructions],
        [i.line for i in body.instructions],
        [i.source for i in body.instructions],
        outcome.issued,
        outcome.lanes,
        outcome.wavefronts,
        outcome.conflicts,
        outcome.sectors,
        outcome.bytes,
        outcome.blocks,
    )


def _check_launch(entry: Entry, block: tuple[int, int, int], parameters: bytes) -> None:
    if len(parameters) != entry.parameter_bytes:
        raise PtxError(f"{len(parameters)} bytes of parameters, {entry.parameter_bytes} expected", entry.name)
    threads = block[0] * block[1] * block[2]
    if entry.required_threads and tuple(block) != entry.required_threads:
        raise PtxError(f"a block of {block} threads, {entry.required_threads} required", entry.name)
    if entry.max_threads and threads > np.prod(entry.max_threads):
        raise PtxError(f"a block of {threads} threads, at most {entry.max_threads}", entry.name)


def _error(entry: str, body: Body, failure) -> PtxError:
    known = 0 <= failure.instruction < len(body.instructions)
    instruction = body.instructions[failure.instruction] if known else None
    return PtxError(
        failure.what,
        entry,
        instruction and instruction.line,
        instruction.source if instruction else "",
        tuple(failure.block),
        failure.warp if failure.warp >= 0 else None,
        failure.lane if failure.lane >= 0 else None,
    )
