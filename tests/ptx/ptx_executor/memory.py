"""Global memory of the executor: tensors at addresses of their own, far apart."""

from __future__ import annotations

import torch

from ptx_executor.build import interpreter

ALIGNMENT = 256  # of the addresses that an allocator of a GPU gives out


class Memory:
    """Allocations of a series of launches. An address is one of this memory, not of the process; 0 is never one.

    Allocations lie 2**36 bytes apart: an access outside of all of them is an error, however far it strays.
    """

    def __init__(self):
        self.native = interpreter().Memory()
        self._allocated: list[tuple[torch.Tensor, int]] = []  # keeps the tensors alive

    def allocate(self, tensor: torch.Tensor, name: str, *, initialised=True, writable=True, misaligned=0) -> int:
        """The address of `tensor`'s first element: a multiple of 256, `misaligned` bytes later.

        Kernels read and write the tensor itself. What lies between the elements of a tensor with gaps is
        not part of the allocation. `initialised=False`: a kernel may read only what a kernel has written.
        """
        assert tensor.device.type == "cpu", tensor.device
        assert tensor.numel() > 0
        elements = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        present = [] if elements == tensor.numel() else _present(tensor, elements)
        address = self.native.allocate(
            name=name,
            data=tensor.data_ptr(),
            bytes=elements * tensor.element_size(),
            skew=misaligned % ALIGNMENT,
            writable=writable,
            initialised=initialised,
            present=present,
        )
        self._allocated.append((tensor, address))
        return address

    def address(self, tensor: torch.Tensor) -> int:
        """Of an allocated tensor or of a view of one."""
        for allocated, address in self._allocated:
            offset = tensor.data_ptr() - allocated.data_ptr()
            if tensor.untyped_storage().data_ptr() == allocated.untyped_storage().data_ptr() and offset >= 0:
                return address + offset
        raise KeyError("a tensor that is not allocated")


def _present(tensor: torch.Tensor, elements: int) -> list[int]:
    """Which bytes between the first and the last element belong to an element."""
    flags = torch.zeros(elements, dtype=torch.uint8)
    flags.as_strided(tensor.shape, tensor.stride()).fill_(1)
    return flags.repeat_interleave(tensor.element_size()).tolist()
