"""The triton backend without a GPU: its launcher runs as it is, Triton compiles for a GPU that need not be here, and
the executor runs the PTX with the parameters that the driver would have been given.

    with triton_backend(Gpu(90)) as launches:
        assert_matches_oracle(case)
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from unittest import mock

import torch
from ptx_executor import Counts, Memory, Module
from ptx_executor import launch as execute
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import deltaconv_kernels as dk
from deltaconv_kernels.testing import poisoned_outputs
from deltaconv_kernels.triton import launch
from deltaconv_kernels.triton.configurations import Key, configuration

backends = import_module("deltaconv_kernels.backends")  # the package has a function of this name
FORMATS = {"i32": "<i", "i64": "<q", "fp32": "<f", "pointer": "<Q"}
SCRATCH = [("pointer", 0)] * 2  # what Triton appends to a kernel's parameters: no kernel here uses it
UNINITIALISED = (torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default)
MAX_THREADS, MAX_SHARED_BYTES = 1024, 99 * 1024


@dataclass(frozen=True)
class Gpu:
    """What the backend finds itself on: 90 is an sm_90. `order` seeds the order of blocks and of warps; `rewrite` gets
    a kernel's name and its PTX, and returns the PTX that is executed."""

    architecture: int
    order: int = 0
    rewrite: Callable[[str, str], str] = lambda name, ptx: ptx


@dataclass(frozen=True)
class Launched:
    """A launch that was executed, and what it counted."""

    name: str
    grid: tuple[int, int, int]
    counts: Counts


class DeviceMemory(TorchDispatchMode):
    """The tensors of one pass. What the launcher makes must be written before it is read; what it got is only read."""

    def __init__(self):
        super().__init__()
        self.memory = Memory()
        self.made = {}  # tensors by their address in this process: kept, so that no two share one
        self.addresses = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in UNINITIALISED:
            self.made[result.data_ptr()] = result
        return result

    def address(self, tensor: torch.Tensor, name: str) -> int:
        pointer = tensor.data_ptr()
        if tensor.numel() == 0:
            return 0
        if pointer not in self.addresses:
            made = pointer in self.made
            self.addresses[pointer] = self.memory.allocate(
                tensor, name, initialised=not made, writable=made, misaligned=pointer % 16
            )
        return self.addresses[pointer]


class OfflineDriver:
    """What Triton asks of a driver, for a GPU that is not here.

    The architecture is the device's number as well, since Triton keeps compiled kernels by device.
    """

    def __init__(self, gpu: Gpu):
        self.gpu = gpu
        self.utils = self
        self.device = None
        self.launches: list[Launched] = []

    def get_current_device(self):
        return self.gpu.architecture

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.gpu.architecture, 32)

    def get_device_properties(self, device):
        return {"max_shared_mem": MAX_SHARED_BYTES}

    def load_binary(self, name, binary, shared, device):
        module, registers, spills = None, 0, 0
        return module, name, registers, spills, MAX_THREADS

    def launcher_cls(self, source, metadata):
        """What stands in the place of cuLaunchKernel for one compiled kernel."""
        assert (metadata.num_ctas, metadata.global_scratch_size, metadata.profile_scratch_size) == (1, 0, 0)
        kernels = source.fn.device_caches[self.gpu.architecture][0].values()
        ptx = next(kernel.asm["ptx"] for kernel in kernels if kernel.hash == metadata.hash)

        def run(x, y, z, stream, name, packed_metadata, launch_metadata, enter_hook, exit_hook, *arguments):
            driver.active.execute(ptx, name, (x, y, z), metadata, source.signature, arguments)

        return run

    def execute(self, ptx, name, grid, metadata, signature, arguments):
        module = parsed(self.gpu.rewrite(name, ptx))
        values = [
            ("pointer", self.device.address(argument, parameter)) if kind.startswith("*") else (kind, argument)
            for (parameter, kind), argument in zip(signature.items(), arguments, strict=True)
            if kind != "constexpr"
        ]
        counts = execute(
            module,
            name,
            grid,
            (32 * metadata.num_warps, 1, 1),
            parameter_block(module.entries[name], values + SCRATCH),
            metadata.shared,
            self.device.memory,
            order=self.gpu.order,
        )
        self.launches.append(Launched(name, grid, counts))


@lru_cache(256)
def parsed(ptx: str) -> Module:
    return Module.parse(ptx)


def parameter_block(entry, values) -> bytes:
    """Each value in the format of its kind, where the PTX declares it."""
    block = bytearray(entry.parameter_bytes)
    for parameter, (kind, value) in zip(entry.parameters, values, strict=True):
        assert struct.calcsize(FORMATS[kind]) == parameter.size, parameter
        struct.pack_into(FORMATS[kind], block, parameter.offset, value)
    return bytes(block)


@contextmanager
def triton_backend(gpu: Gpu) -> Iterator[list[Launched]]:
    """Inside, the operator takes the triton backend for CPU tensors and finds itself on `gpu`."""
    offline = OfflineDriver(gpu)

    def on_gpu(function):
        def run(*arguments):
            with DeviceMemory() as offline.device:
                return function(*arguments)

        return run

    def tiles_for(C, H, W, K, dtype, device):
        return configuration(Key(C, H, W, K, dtype, f"sm{gpu.architecture}"))

    backend = backends._BACKENDS["triton"]
    here = replace(
        backend,
        device_types=None,
        why_not_here=lambda: None,
        forward=on_gpu(backend.forward),
        backward=on_gpu(backend.backward),
    )
    backends._choose.cache_clear()
    try:
        with (
            mock.patch.object(driver, "_active", offline),
            mock.patch.dict(backends._BACKENDS, triton=here),
            mock.patch.object(launch, "tiles_for", tiles_for),
            dk.use_backend("triton"),
            poisoned_outputs(),
        ):
            yield offline.launches
    finally:
        backends._choose.cache_clear()
