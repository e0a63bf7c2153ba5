"""Executes PTX on a CPU, for tests: what nvcc and Triton make of the kernels, without a GPU.

    module = Module.parse(ptx_text)
    memory = Memory()
    x = memory.allocate(tensor, "x", writable=False)
    launch(module, entry, grid=(blocks, 1, 1), block=(threads, 1, 1), parameters=packed_arguments,
           shared_bytes=shared_bytes, memory=memory, order=1)

An execution is stricter than a GPU: `PtxError` says which rule a kernel broke, and where.
"""

from ptx_executor.errors import PtxError
from ptx_executor.launching import Counts, launch
from ptx_executor.memory import Memory
from ptx_executor.module import Entry, Module, Parameter

__all__ = ["Counts", "Entry", "Memory", "Module", "Parameter", "PtxError", "launch"]
