"""The `forward` of an attention where helpers have put one of their own in front of it.

The hooks of accelerate (`dispatch_model`, `device_map`, offload) and of diffusers (caches, casting, offload) keep the
bound `forward` that they find and set another one on the instance, where Python looks before it looks at the class. An
attention that changes its class would go on running the old class's forward: the kept methods are exchanged with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

HELPERS = ("accelerate.hooks", "diffusers.hooks.hooks")  # where the functions come from that helpers put on instances


def exchange_forward(module: nn.Module, old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Wherever the instance or a helper's hook on it keeps `old`, bound to `module`, let it keep `new`."""
    for holder in _holders(module):
        for key, value in list(holder.items()):
            if _is_bound(value, old, module):
                holder[key] = MethodType(new, module)


def why_shadowed(module: nn.Module, forward: Callable[..., Any]) -> str | None:
    """What stands before the class's `forward` on this instance without leading to it, or None."""
    on_instance = module.__dict__.get("forward")
    if on_instance is None or _is_bound(on_instance, forward, module):
        return None
    known = isinstance(on_instance, partial) and on_instance.func.__module__ in HELPERS
    kept = (value for holder in _holders(module) for value in holder.values())
    if known and any(_is_bound(value, forward, module) for value in kept):
        return None
    hook = module.__dict__.get("_hf_hook", on_instance)
    return f"its forward was replaced, by {hook!r}"


def forget_outputs(module: nn.Module) -> None:
    """Let the caches among diffusers' hooks on this module drop what another forward has computed."""
    registry = module.__dict__.get("_diffusers_hook")
    if registry is not None:
        registry.reset_stateful_hooks(recurse=False)


def _holders(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The attributes of the instance (accelerate's `_old_forward` among them) and of diffusers' hooks on it."""
    yield module.__dict__
    for reference in getattr(module.__dict__.get("_diffusers_hook"), "_fn_refs", ()):
        yield vars(reference)


def _is_bound(value: Any, function: Callable[..., Any], module: nn.Module) -> bool:
    return isinstance(value, MethodType) and value.__func__ is function and value.__self__ is module
