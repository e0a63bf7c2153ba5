"""Launches of an entry on the executor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptx_executor.memory import Memory
from ptx_executor.module import Module


@dataclass(frozen=True)
class Counts:
    """What the warps of a launch did, one value for each instruction of the entry, in PTX's order."""

    opcodes: list[str]
    lines: list[int]  # of the PTX text
    sources: list[str]  # "file:line" by .loc
    issued: np.ndarray  # times a warp executed it
    lanes: np.ndarray  # active lanes, summed over those
    wavefronts: np.ndarray  # of shared memory: 32 banks of 4 bytes
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
) -> Counts:
    """Run a grid. `parameters` is the parameter block (`Entry.parameter_bytes` long); `shared_bytes` the dynamic part.

    `order`: a seed of the order of blocks and of warps; 0 is ascending blocks, warps in turn. `only_blocks`: linear
    indices of the blocks to run. Raises PtxError.
    """
    raise NotImplementedError
