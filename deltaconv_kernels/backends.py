"""Which implementation of the operator runs: what each can do, the user's choice, and the dispatch."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import native, ops, reference, triton, validation
from .namespace import operators
from .triton import ahead

ENVIRONMENT_VARIABLE = "DELTACONV_BACKEND"
AUTO = "auto"


@dataclass(frozen=True)
class Backend:
    """One implementation: where it runs, what stops it, and its two entry points."""

    name: str
    device_types: tuple[str, ...] | None  # None: any
    dtypes: tuple[torch.dtype, ...]
    why_not_here: Callable[[], str | None]  # on this machine at all
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    why_not_on: Callable[[int], str | None]  # on the device of this index

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """None if this backend can compute on such tensors, else the reason."""
        if self.device_types is not None and device.type not in self.device_types:
            return f"it runs on {' or '.join(self.device_types)}, x is on {device.type}"
        if dtype not in self.dtypes:
            return f"it computes in {', '.join(map(str, self.dtypes))}, x is {dtype}"
        reason = self.why_not_here()
        if reason is None and device.index is not None:
            reason = self.why_not_on(device.index)
        return reason


def _why_not_cuda() -> str | None:
    # Without a GPU the driver says why; with some, each is asked when it is used (`why_not_on`).
    return native.why_not_loaded("cuda") or (None if torch.cuda.device_count() else native.why_not_on_gpu(0))


def _anywhere(index: int) -> None:
    """On every device."""


def _native(
    name: str,
    dtypes: tuple[torch.dtype, ...],
    why_not_here: Callable[[], str | None],
    why_not_on: Callable[[int], str | None] = _anywhere,
) -> Backend:
    """A library of csrc/<name>, for the device type of the same name; it takes the gate as an index."""
    forward = getattr(operators, f"pyramid_{name}").default
    backward = getattr(operators, f"pyramid_backward_{name}").default

    index = reference.GATES.index

    def run_forward(x, weight, bias, factors, gate, gate_scale, residual):
        return forward(x, weight, bias, factors, index(gate), gate_scale, residual)

    def run_backward(grad, x, weight, bias, factors, gate, gate_scale, output_mask):
        return backward(grad, x, weight, bias, factors, index(gate), gate_scale, output_mask)

    return Backend(name, (name,), dtypes, why_not_here, run_forward, run_backward, why_not_on)


_TRITON = Backend(
    "triton",
    triton.device_types(),
    triton.DTYPES,
    triton.why_not_here,
    triton.pyramid_forward,
    triton.pyramid_backward,
    _anywhere,
)

# In the order in which "auto" tries them. The reference takes anything: what follows it must be asked for.
_BACKENDS = {
    backend.name: backend
    for backend in (
        _native(
            "cuda",
            (torch.float32, torch.bfloat16, torch.float16),
            _why_not_cuda,
            native.why_not_on_gpu,
        ),
        *([] if triton.interpreted() else [_TRITON]),
        _native("cpu", validation.DTYPES, lambda: native.why_not_loaded("cpu")),
        Backend(
            "reference",
            None,
            validation.DTYPES,
            lambda: None,
            reference.pyramid_forward,
            reference.pyramid_backward,
            _anywhere,
        ),
        *([_TRITON] if triton.interpreted() else []),
    )
}


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run on this machine, and if not, why.

    Where it can run on some GPUs only, it is available and `reason` names the others.
    """

    available: bool
    reason: str | None


def backends() -> dict[str, BackendStatus]:
    """Every backend by name, in the order "auto" prefers them, with the reason where one cannot run here.

    This is a diagnosis: it asks every GPU, and so makes a CUDA context on each. Computing asks only the GPU in use.
    """
    return {name: _status(backend) for name, backend in _BACKENDS.items()}


def _status(backend: Backend) -> BackendStatus:
    reason = backend.why_not_here()
    if reason is not None:
        return BackendStatus(False, reason)
    gpus = range(torch.cuda.device_count()) if backend.device_types == ("cuda",) else ()
    reasons = [backend.why_not_on(index) for index in gpus]
    refused = [reason for reason in reasons if reason is not None]
    return BackendStatus(not reasons or None in reasons, "; ".join(refused) or None)


def _checked(name: str, source: str) -> str:
    if name not in (AUTO, *_BACKENDS):
        raise ValueError(f"{source}: expected one of {(AUTO, *_BACKENDS)}, got {name!r}")
    return name


# Process-wide, not per thread: autograd runs a CUDA backward on threads of its own. The last request is in force.
# Threads may end their requests in any order: each takes its own away, wherever it stands.
_requests = [[_checked(os.environ.get(ENVIRONMENT_VARIABLE, AUTO), ENVIRONMENT_VARIABLE)]]
_requests_lock = threading.Lock()
_requested = _requests[0][0]


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with one backend inside the `with` block, for the whole process.

    Args:
        name: "auto", or a key of `backends()`. A backward pass uses the choice in force when it runs, so
            keep it in the block too. Of several threads' choices, the last made is in force. The environment
            variable DELTACONV_BACKEND sets the initial choice.

    Raises:
        ValueError: unknown name.
        RuntimeError: from the operator, if the backend cannot run its input; it never falls back in silence.
    """
    global _requested
    request = [_checked(name, "use_backend")]  # a list of its own: equal names are told apart
    with _requests_lock:
        _requests.append(request)
        _requested = name
    try:
        yield
    finally:
        with _requests_lock:
            del _requests[next(i for i, other in enumerate(_requests) if other is request)]
            _requested = _requests[-1][0]


def why_not_in_use(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """None if the backend ``name`` is in use, or may be under "auto", and computes on such tensors; else the reason."""
    if _requested not in (AUTO, name):
        return f"the backend in use is {_requested!r}"
    return _BACKENDS[name].why_not(device, dtype)


def why_not_on(name: str, device: torch.device) -> str | None:
    """None if the backend ``name`` can compute on this device, else the reason."""
    backend = _BACKENDS[name]
    return backend.why_not(device, backend.dtypes[0])


def dtypes_of(name: str) -> tuple[torch.dtype, ...]:
    """What the backend ``name`` computes in."""
    return _BACKENDS[name].dtypes


@cache  # what a backend can do does not change while a process lives
def can_run(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the backend ``name`` computes on such tensors, in use or not."""
    return _BACKENDS[name].why_not(device, dtype) is None


def choose_backend(x: Tensor, weight: Tensor | None = None, factors: Sequence[int] = ()) -> Backend:
    """The requested backend, or under "auto" the first that can compute on ``x``.

    Where that is "cuda" and the problem is given: "triton" instead, if it was measured ahead on such problems
    (docs/triton.md). The batch plays no part, nor does the pass.
    """
    backend = _choose(_requested, x.device, x.dtype)
    if backend.name == "cuda" and _requested == AUTO and weight is not None and _is_triton_ahead(x, weight, factors):
        return _BACKENDS["triton"]
    return backend


def _is_triton_ahead(x: Tensor, weight: Tensor, factors: Sequence[int]) -> bool:
    if not ahead.table() or _BACKENDS["triton"].why_not_here() is not None:
        return False
    _, H, W, C = x.shape
    return ahead.is_ahead(C, H, W, weight.shape[1], tuple(factors), x.dtype, x.device)


@cache  # what a backend can do does not change while a process lives
def _choose(requested: str, device: torch.device, dtype: torch.dtype) -> Backend:
    if requested == AUTO:
        chosen = next(backend for backend in _BACKENDS.values() if backend.why_not(device, dtype) is None)
        cuda = _BACKENDS["cuda"]
        if device.type == "cuda" and torch.version.cuda and chosen is not cuda and dtype in cuda.dtypes:
            _warn_without_cuda(str(cuda.why_not(device, dtype)), chosen.name)
        return chosen
    backend = _BACKENDS[requested]
    reason = backend.why_not(device, dtype)
    if reason is not None:
        raise RuntimeError(f"backend {backend.name!r} was requested but cannot run: {reason}")
    return backend


@cache  # once for each reason, whatever the dtype
def _warn_without_cuda(reason: str, instead: str) -> None:
    warnings.warn(
        f"deltaconv: the cuda backend cannot run, {instead!r} computes instead: {reason}", RuntimeWarning, stacklevel=2
    )


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    gate: str = "scaled",
    gate_scale: float = 1.0,
    residual: Tensor | None = None,
) -> Tensor:
    validation.check_arguments(x, weight, bias, factors, gate, residual)
    return choose_backend(x, weight, factors).forward(x, weight, bias, factors, gate, gate_scale, residual)


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[int],
    gate: str,
    gate_scale: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    validation.check_arguments(x, weight, bias, factors, gate, None)
    validation.check_gradient(grad, x, factors)
    return choose_backend(x, weight, factors).backward(grad, x, weight, bias, factors, gate, gate_scale, output_mask)


ops.LIBRARY.impl("pyramid", _forward, "CompositeExplicitAutograd")
ops.LIBRARY.impl("pyramid_backward", _backward, "CompositeExplicitAutograd")
