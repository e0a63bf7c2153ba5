"""Classifier-free guidance without its doubled batch: the denoiser sees one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@contextmanager
def calls_of_one_sample(*modules: nn.Module) -> Iterator[None]:
    """Context: each call of these modules becomes one call for each sample of its batch.

    The result is that of the whole batch, up to the rounding of other kernels; the memory is that of one sample.
    Arguments with the batch as their first dimension are split, wherever they stand in lists and dicts. As with
    parametrizations, a module gets another class for a while: its forward, hooks and offloading are left alone, and
    run for each sample.
    """
    classes = [type(module) for module in modules]
    for module, original in zip(modules, classes, strict=True):
        module.__class__ = type(original.__name__, (_SampleBySample, original), {})
    try:
        yield
    finally:
        for module, original in zip(modules, classes, strict=True):
            module.__class__ = original


class _SampleBySample(nn.Module):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call: Callable[..., Any] = super().__call__
        batch = _batch(args, kwargs)
        if batch == 1:
            return call(*args, **kwargs)
        results = []
        for index in range(batch):
            sample = partial(_sample, index, batch)
            results.append(call(*tree_map(sample, args), **tree_map(sample, kwargs)))
        return tree_map(lambda *parts: torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0], *results)


def _batch(args: Any, kwargs: Any) -> int:
    """Latents come first, as an argument, or by name as `sample` or `hidden_states`."""
    return next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim() == 4).shape[0]


def _sample(index: int, batch: int, value: Any) -> Any:
    whole_batch = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch
    return value[index : index + 1] if whole_batch else value
