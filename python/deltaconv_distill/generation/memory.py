"""What a denoising step needs in memory, found by running it on tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psutil
import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..conversion import DeltaConvFusion
from ..conversion.model_inputs import random_inputs


class PeakBytes(TorchDispatchMode):
    """Context that follows the storages that operators return; `peak` is the most bytes alive at a time.

    Views of `existing` tensors, such as weights, do not count.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in existing)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.follow(tensor)
        return result

    def follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.alive -= size


@torch.no_grad()
def denoiser_memory(denoiser: ModelMixin, height: int, width: int, batch: int = 1) -> int:
    """Bytes that a forward needs beside the weights, on `batch` latents of height x width: inputs and activations.

    A copy of the model runs on tensors that have no data, so this costs seconds and no memory, whatever the size.
    Workspaces inside kernels are not counted, nor what an allocator loses in gaps.

    Args:
        denoiser: a UNet2DConditionModel or PixArtTransformer2DModel, converted or not, on any device,
            torch's meta device too.
        height, width: in latent pixels.
    """
    twin = _without_weights(denoiser)
    inputs = random_inputs(twin, height, width, batch)
    with FakeTensorMode():
        device = "cpu" if denoiser.device.type == "meta" else denoiser.device.type
        weights = {name: _fake(tensor, device) for name, tensor in (*twin.named_parameters(), *twin.named_buffers())}
        with PeakBytes(weights.values()) as memory, _at_size(twin, height, width):
            functional_call(twin, weights, kwargs=tree_map(lambda leaf: _fake(leaf, device), inputs))
    return memory.peak


def _at_size(denoiser: ModelMixin, height: int, width: int) -> AbstractContextManager[None]:
    """For grids that are read from values, which tensors without data do not have."""
    fusion = DeltaConvFusion.attached_to(denoiser)
    return nullcontext() if fusion is None else fusion.at_size(height, width)


def _without_weights(denoiser: ModelMixin) -> ModelMixin:
    """The same model on torch's meta device, without the hooks of whoever has the original."""
    with torch.device("meta"):
        twin = nn.Module.to(type(denoiser).from_config(denoiser.config), denoiser.dtype).eval()
    fusion = DeltaConvFusion.attached_to(denoiser)
    if fusion is not None:
        with torch.device("meta"):
            DeltaConvFusion.from_config(fusion.config).attach(twin)
    return twin


def _fake(value: Any, device: str) -> Any:
    """In FakeTensorMode: a tensor that says it is on `device`; on the meta device torch would take other kernels."""
    return torch.empty(value.shape, dtype=value.dtype, device=device) if isinstance(value, Tensor) else value


def free_memory(device: torch.device) -> int:
    """Bytes that a new tensor could still take on the device."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
