"""Global memory of the executor: tensors at addresses of their own, far apart."""

from __future__ import annotations

import torch


class Memory:
    """Allocations of a series of launches. An address is one of this memory, not of the process; 0 is never one.

    Allocations lie 2**36 bytes apart: an access outside of all of them is an error, however far it strays.
    """

    def allocate(self, tensor: torch.Tensor, name: str, *, initialised=True, writable=True) -> int:
        """The address of `tensor`'s first element, aligned as its data_ptr() is modulo 256.

        Kernels read and write the tensor itself. What lies between the elements of a tensor with gaps is
        not part of the allocation. `initialised=False`: a kernel may read only what a kernel has written.
        """
        raise NotImplementedError

    def address(self, tensor: torch.Tensor) -> int:
        """Of an allocated tensor or of a view of one."""
        raise NotImplementedError
