"""What is tried with a function of an image and its filters: conv2d, the pyramid, and a whole block."""

from __future__ import annotations

import copy
import gc
import io
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from situations import same
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import deltaconv_kernels as dk

Function = Callable[[Any, Any], Tensor]


def conv2d(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x, w, padding=1, groups=4)


def pyramid(x: Tensor, w: Tensor) -> Tensor:
    return dk.pyramid(x, w, None, (1, 2))


def delta_block(x: Tensor, w: Tensor) -> Tensor:
    """Every matrix of the block from the filters, so that it too is a function of two tensors."""
    if w is None:
        return dk.delta_block(x, w, None, w, None, w, None, w, None, (1, 2))
    rows = w.flatten(0, 2)
    return dk.delta_block(x, rows[:4], None, w, None, rows[4:8], None, rows[8:12], None, (1, 2))


# Each with the shapes of its image and its filters.
FUNCTIONS: dict[str, tuple[Function, tuple[int, ...], tuple[int, ...]]] = {
    "conv2d": (conv2d, (2, 4, 6, 5), (4, 1, 3, 3)),
    "pyramid": (pyramid, (2, 6, 5, 4), (2, 3, 3, 4)),
    "delta_block": (delta_block, (2, 6, 5, 4), (2, 3, 3, 4)),
}


class Model(torch.nn.Module):
    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Any, w: Any) -> Tensor:
        return self.f(x, w)


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def gradients(f: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
    xs = leaves(*tensors)
    return torch.autograd.grad(f(*xs).square().sum(), xs)


def difference(f: Function, x: Tensor, w: Tensor, tangent: Tensor) -> Tensor:
    """The derivative along a tangent of x, from two calls in float64."""
    x, w, step = x.double(), w.double(), 1e-5 * tangent.double()
    return (f(x + step, w) - f(x - step, w)) / 2e-5


def backward(f: Function, x: Tensor, w: Tensor) -> None:
    """Along one direction of both arguments at once."""
    along_x, along_w = torch.ones_like(x), torch.ones_like(w)
    dx, dw = gradients(f, x, w)
    x, w = x.double(), w.double()
    losses = [f(x + step * along_x, w + step * along_w).square().sum() for step in (1e-6, -1e-6)]
    same(dx.sum() + dw.sum(), (losses[0] - losses[1]) / 2e-6, 1e-4)


def frozen(f: Function, x: Tensor, w: Tensor, which: int) -> None:
    arguments = [x, w]
    (leaf,) = leaves(arguments[which])
    arguments[which] = leaf
    f(*arguments).square().sum().backward()
    same(leaf.grad, gradients(f, x, w)[which])


def backward_twice(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x, w)
    y = f(*xs).square().sum()
    first = torch.autograd.grad(y, xs, retain_graph=True)
    same(torch.autograd.grad(y, xs), first, 0)


def accumulated(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x, w)
    for _ in range(2):
        f(*xs).square().sum().backward()
    same([leaf.grad for leaf in xs], [2 * g for g in gradients(f, x, w)])


def stride_zero_gradient(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x, w)
    y = f(*xs)
    same(torch.autograd.grad(y.sum(), xs, retain_graph=True), torch.autograd.grad(y, xs, torch.ones_like(y)))


def batched_gradients(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x, w)
    y = f(*xs)
    cotangents = torch.randn(3, *y.shape)
    together = torch.autograd.grad(y, xs, cotangents, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(y, xs, cotangent, retain_graph=True) for cotangent in cotangents]
    same(together, [torch.stack(gs) for gs in zip(*each, strict=True)])


def changed_in_place(f: Function, x: Tensor, w: Tensor) -> None:
    """What backward needs was written to: an error, never a wrong gradient."""
    x, (w,) = x.clone(), leaves(w)
    y = f(x, w)
    x.mul_(2)
    y.sum().backward()


def written_over(f: Function, x: Tensor, w: Tensor) -> None:
    """The result is the caller's: nothing was saved of it."""
    xs = leaves(x, w)
    y = f(*xs)
    y.mul_(2)
    same(torch.autograd.grad(y.sum(), xs), torch.autograd.grad(2 * f(*xs).sum(), xs))


def create_graph(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x, w)
    first = torch.autograd.grad(f(*xs).square().sum(), xs, create_graph=True)
    same(first, gradients(f, x, w))


def gradient_penalty(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x, w)
    first = torch.autograd.grad(f(*xs).square().sum(), xs, create_graph=True)
    sum(g.square().sum() for g in first).backward()


def saved_on_cpu(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x, w)
    with torch.autograd.graph.save_on_cpu():
        y = f(*xs)
    same(torch.autograd.grad(y.square().sum(), xs), gradients(f, x, w))


def anomalies(f: Function, x: Tensor, w: Tensor) -> None:
    with warnings.catch_warnings(), torch.autograd.detect_anomaly():
        warnings.simplefilter("ignore")
        gradients(f, x, w)


def checkpointed(f: Function, x: Tensor, w: Tensor, reentrant: bool) -> None:
    xs = leaves(x, w)
    y = torch.utils.checkpoint.checkpoint(f, *xs, use_reentrant=reentrant)
    y.square().sum().backward()
    same([leaf.grad for leaf in xs], gradients(f, x, w), 0)


def inference_tensors_in_training(f: Function, x: Tensor, w: Tensor) -> None:
    with torch.inference_mode():
        x = x.clone()
    f(x, *leaves(w)).sum().backward()


def dual_numbers(f: Function, x: Tensor, w: Tensor) -> None:
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        result = forward_ad.unpack_dual(f(forward_ad.make_dual(x, tangent), w)).tangent
    same(result, difference(f, x, w, tangent), 1e-4)


def pushed(f: Function, x: Tensor, w: Tensor) -> None:
    tangent = torch.randn_like(x)
    same(jvp(lambda x: f(x, w), (x,), (tangent,))[1], difference(f, x, w, tangent), 1e-4)


def linearized(f: Function, x: Tensor, w: Tensor) -> None:
    tangent = torch.randn_like(x)
    _, push = linearize(lambda x: f(x, w), x)
    same(push(tangent), difference(f, x, w, tangent), 1e-4)


def pulled(f: Function, x: Tensor, w: Tensor) -> None:
    y, pull = vjp(f, x, w)
    same(pull(2 * y), gradients(f, x, w))


def vectorized_jacobian(f: Function, x: Tensor, w: Tensor) -> None:
    def some(w: Tensor) -> Tensor:
        return f(x, w).flatten()[:5]

    same(*(torch.autograd.functional.jacobian(some, w, vectorize=vectorize) for vectorize in (True, False)))


def batches(*tensors: Tensor) -> list[Tensor]:
    return [torch.stack([t, 2 * t, t + 1]) for t in tensors]


def mapped_over_both(f: Function, x: Tensor, w: Tensor) -> None:
    xs, ws = batches(x, w)
    same(vmap(f)(xs, ws), torch.stack([f(*each) for each in zip(xs, ws, strict=True)]))


def mapped_over_the_last_axis(f: Function, x: Tensor, w: Tensor) -> None:
    xs, _ = batches(x, w)
    moved = vmap(f, (-1, None), out_dims=-1)(xs.movedim(0, -1), w)
    same(moved.movedim(-1, 0), torch.stack([f(each, w) for each in xs]))


def mapped_in_chunks(f: Function, x: Tensor, w: Tensor) -> None:
    xs, _ = batches(x, w)
    same(vmap(f, (0, None), chunk_size=2)(xs, w), torch.stack([f(each, w) for each in xs]))


def mapped_twice(f: Function, x: Tensor, w: Tensor) -> None:
    xs, ws = batches(x, w)
    pairs = vmap(vmap(f, (0, None)), (None, 0))(xs, ws)
    same(pairs, torch.stack([torch.stack([f(x, w) for x in xs]) for w in ws]))


def per_sample_gradients(f: Function, x: Tensor, w: Tensor) -> None:
    def loss(w: Tensor, x: Tensor) -> Tensor:
        return f(x, w).square().sum()

    together = vmap(grad(loss), (None, 0))(w, x[:, None])
    same(together, torch.stack([grad(loss)(w, x[i : i + 1]) for i in range(len(x))]))


def compiled(f: Function, x: Tensor, w: Tensor, **options: Any) -> None:
    same(torch.compile(f, fullgraph=True, **options)(x, w), f(x, w))


def compiled_backward(f: Function, x: Tensor, w: Tensor) -> None:
    same(gradients(torch.compile(f, fullgraph=True, backend="aot_eager"), x, w), gradients(f, x, w))


def compiled_autograd(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x, w)

    @torch.compile(backend="eager")
    def step() -> None:
        f(*xs).square().sum().backward()

    with torch._dynamo.config.patch(compiled_autograd=True):
        step()
    same([leaf.grad for leaf in xs], gradients(f, x, w))


@torch._dynamo.config.patch(capture_scalar_outputs=True)
def compiled_of_data_dependent_size(f: Function, x: Tensor, w: Tensor) -> None:
    def cropped(x: Tensor, w: Tensor, count: Tensor) -> Tensor:
        return f(x.narrow(2, 0, count.item()), w)

    compiled = torch.compile(cropped, fullgraph=True, backend="aot_eager")
    for count in (4, 3):
        same(compiled(x, w, torch.tensor(count)), cropped(x, w, torch.tensor(count)))


def exported(f: Function, x: Tensor, w: Tensor, strict: bool) -> None:
    sizes = ({0: torch.export.Dim("B"), 2: torch.export.Dim("size", min=3)}, {})
    program = torch.export.export(Model(f), (x, w), dynamic_shapes=sizes, strict=strict).module()
    for image in (x, torch.cat([x, x])[:3, :, 1:]):
        same(program(image, w), f(image, w))


def saved_program(f: Function, x: Tensor, w: Tensor) -> None:
    file = io.BytesIO()
    torch.export.save(torch.export.export(Model(f), (x, w)), file)
    file.seek(0)
    same(torch.export.load(file).module()(x, w), f(x, w))


def made_fx(f: Function, x: Tensor, w: Tensor, mode: str) -> None:
    same(make_fx(f, tracing_mode=mode)(x, w)(x, w), f(x, w))


def traced_by_fx(f: Function, x: Tensor, w: Tensor) -> None:
    same(torch.fx.symbolic_trace(Model(f))(x, w), f(x, w))


def traced_by_jit(f: Function, x: Tensor, w: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        traced = torch.jit.trace(f, (x, w), check_trace=False)
    for image in (x, torch.cat([x, x])[:3, :, 1:]):
        same(traced(image, w), f(image, w))


def scripted(f: Function, x: Tensor, w: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.jit.script(f)
    file = io.BytesIO()
    torch.jit.save(compiled, file)
    file.seek(0)
    same(torch.jit.load(file)(x, w), f(x, w))


def functionalized(f: Function, x: Tensor, w: Tensor) -> None:
    same(functionalize(f)(x, w), f(x, w))


def fake(f: Function, x: Tensor, w: Tensor) -> None:
    with torch._subclasses.FakeTensorMode() as mode:
        result = f(mode.from_tensor(x), mode.from_tensor(w))
    assert result.shape == f(x, w).shape


def meta(f: Function, x: Tensor, w: Tensor) -> None:
    result, real = f(x.to("meta"), w.to("meta")), f(x, w)
    assert (result.shape, result.stride(), result.dtype) == (real.shape, real.stride(), real.dtype)


def beyond_32_bits(f: Function, x: Tensor, w: Tensor) -> None:
    """2^34 pixels, without memory."""
    sizes = [2**17 if size in (5, 6) else size for size in x.shape]
    assert f(x.new_empty(sizes, device="meta"), w.to("meta")).numel() > 2**35


def autocast(f: Function, x: Tensor, w: Tensor, dtype: torch.dtype) -> None:
    xs = leaves(x, w)
    with torch.autocast("cpu", dtype):
        y = f(*xs)
    assert y.dtype == dtype
    same(y, f(x, w), 5e-2)
    same(torch.autograd.grad(y.square().sum(), xs), gradients(f, x, w), 1e-1)


def autocast_of_mixed_types(f: Function, x: Tensor, w: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        same(f(x.bfloat16(), w), f(x, w), 2e-2)


def autocast_switched_off(f: Function, x: Tensor, w: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        same(f(x, w), f(*(t.clone() for t in (x, w))), 0)


def casts(result: Tensor, leaf: Tensor) -> set[Any]:
    """The nodes of the graph that stand between ``leaf`` and the rest, by name those that cast."""
    nodes, found = [result.grad_fn], set()
    while nodes:
        node = nodes.pop()
        for below, _ in node.next_functions if node is not None else ():
            nodes.append(below)
            if getattr(below, "variable", None) is leaf and "ToCopy" in node.name():
                found.add(node)
    return found


def autocast_of_filters_once(f: Function, x: Tensor, w: Tensor) -> None:
    """Several calls in one region share one cast."""
    (w,) = leaves(w)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = casts(f(x, w), w), casts(f(x, w), w)
    assert len(first & second) == 1


def in_threads(f: Function, x: Tensor, w: Tensor) -> None:
    """Forward and backward in four threads at once."""
    results: dict[int, Any] = {}

    def work(i: int) -> None:
        results[i] = gradients(f, x, w)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        same(results[i], gradients(f, x, w), 0)


def deterministic(f: Function, x: Tensor, w: Tensor) -> None:
    was_on = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        same(gradients(f, x, w), gradients(f, x, w), 0)
    finally:
        torch.use_deterministic_algorithms(was_on)


def leaves_nothing_behind(f: Function, x: Tensor, w: Tensor) -> None:
    """After a step no tensor is alive, nor waits for the garbage collector."""
    xs = leaves(x, w)
    y = f(*xs)
    y.square().sum().backward()
    alive = [weakref.ref(tensor) for tensor in (*xs, y)]
    gc.disable()
    try:
        del xs, y
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()


class Marked(Tensor):
    """A subclass that adds nothing: its results are of it."""


class SeenOperators(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def subclassed(f: Function, x: Tensor, w: Tensor) -> None:
    result = f(x.as_subclass(Marked), w)
    assert type(result) is Marked
    same(result.as_subclass(Tensor), f(x, w))


def two_tensors(f: Function, x: Tensor, w: Tensor) -> None:
    """A subclass that runs each operator on two tensors."""
    from torch.testing._internal.two_tensor import TwoTensor

    result: Any = f(TwoTensor(x, 2 * x), TwoTensor(w, w))
    same([result.a, result.b], [f(x, w), f(2 * x, w)])


def dispatch_mode(f: Function, x: Tensor, w: Tensor) -> None:
    with SeenOperators() as mode:
        same(f(x, w), f(x, w))
    assert any("convolution" in name or "deltaconv" in name for name in mode.seen)


def function_mode(f: Function, x: Tensor, w: Tensor) -> None:
    with torch.device("cpu"), torch.overrides.BaseTorchFunctionMode():
        f(x, w)


def counted(f: Function, x: Tensor, w: Tensor) -> None:
    with FlopCounterMode(display=False) as counter:
        f(*leaves(x, w)).sum().backward()
    assert counter.get_total_flops() > 0


def profiled(f: Function, x: Tensor, w: Tensor) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        f(x, w)
    names = [event.key for event in profile.key_averages(group_by_input_shape=True)]
    assert {"aten::conv2d", "deltaconv::pyramid", "deltaconv::block"} & set(names)


def into_a_tensor(f: Function, x: Tensor, w: Tensor) -> None:
    result = f(x, w)
    functions = {conv2d: F.conv2d, pyramid: dk.pyramid, delta_block: dk.delta_block}
    functions[f](x, w, out=result)


def strided(f: Function, x: Tensor, w: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """The same numbers otherwise laid out in memory: results and gradients."""
    for which in range(2):
        arguments = [x, w]
        arguments[which] = change(arguments[which])
        assert torch.equal(arguments[which], (x, w)[which])
        same(f(*arguments), f(x, w))
        same(gradients_as_they_are(f, *arguments), gradients(f, x, w))


def gradients_as_they_are(f: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
    xs = [t.detach().requires_grad_() for t in tensors]
    return torch.autograd.grad(f(*xs).square().sum(), xs)


def of_every_second(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, dim=-1)[..., ::2]


def from_the_middle(t: Tensor) -> Tensor:
    """From an address that no vector starts at."""
    return torch.cat([torch.zeros(1), t.flatten()])[1:].view(t.shape)


def expanded(f: Function, x: Tensor, w: Tensor) -> None:
    one = x[:1]
    leaf = one.clone().requires_grad_()
    y = f(leaf.expand(3, -1, -1, -1), w)
    same(y, f(one.repeat(3, 1, 1, 1), w))
    same(torch.autograd.grad(y.square().sum(), leaf)[0], 3 * gradients(f, one, w)[0])


def one_number_everywhere(f: Function, x: Tensor, w: Tensor) -> None:
    constant = torch.tensor(0.5)
    same(f(constant.expand(x.shape), w), f(torch.full(x.shape, 0.5), w))


def empty_batch(f: Function, x: Tensor, w: Tensor) -> None:
    xs = leaves(x[:0], w)
    y = f(*xs)
    assert y.shape == (0, *f(x, w).shape[1:])
    dx, dw = torch.autograd.grad(y.sum(), xs)
    assert dx.shape == xs[0].shape
    assert not dw.any()


def of_type(f: Function, x: Tensor, w: Tensor, dtype: torch.dtype, budget: float) -> None:
    y = f(x.to(dtype), w.to(dtype))
    assert y.dtype == dtype
    same(y, f(x, w), budget)
    same(gradients(f, x.to(dtype), w.to(dtype)), gradients(f, x, w), 4 * budget)


def copied_result(f: Function, x: Tensor, w: Tensor) -> None:
    same(copy.deepcopy(f(x, w)), f(x, w), 0)


SITUATIONS: dict[str, Callable[[Function, Tensor, Tensor], Any]] = {
    # gradients
    "no gradient": lambda f, x, w: same(torch.no_grad()(f)(x, w), f(x.double(), w.double())),
    "inference mode": lambda f, x, w: same(torch.inference_mode()(f)(x, w), f(x, w), 0),
    "inference tensors in training": inference_tensors_in_training,
    "backward": backward,
    "x alone with a gradient": lambda f, x, w: frozen(f, x, w, 0),
    "filters alone with a gradient": lambda f, x, w: frozen(f, x, w, 1),
    "backward twice (retain_graph)": backward_twice,
    "gradients summed over calls": accumulated,
    "a gradient of stride 0": stride_zero_gradient,
    "batched gradients": batched_gradients,
    "x written to before backward": changed_in_place,
    "the result written to": written_over,
    "create_graph": create_graph,
    "second derivatives": lambda f, x, w: hessian(lambda w: f(x, w).square().sum())(w),
    "gradient penalty": gradient_penalty,
    "gradcheck": lambda f, x, w: torch.autograd.gradcheck(f, leaves(x.double(), w.double()), fast_mode=True),
    "save_on_cpu": saved_on_cpu,
    "detect_anomaly": anomalies,
    "checkpointing": lambda f, x, w: checkpointed(f, x, w, False),
    "checkpointing, reentrant": lambda f, x, w: checkpointed(f, x, w, True),
    "no tensor left alive": leaves_nothing_behind,
    # torch.func
    "forward mode, dual numbers": dual_numbers,
    "jvp": pushed,
    "linearize": linearized,
    "vjp": pulled,
    "jacrev equals jacfwd": lambda f, x, w: same(jacrev(f)(x, w), jacfwd(f)(x, w)),
    "functional.jacobian, vectorized": vectorized_jacobian,
    "vmap over x": lambda f, x, w: same(vmap(f, (0, None))(batches(x)[0], w)[1], f(2 * x, w)),
    "vmap over the filters": lambda f, x, w: same(vmap(f, (None, 0))(x, batches(w)[0])[1], f(x, 2 * w)),
    "vmap over both": mapped_over_both,
    "vmap, in_dims and out_dims -1": mapped_over_the_last_axis,
    "vmap in chunks": mapped_in_chunks,
    "vmap of vmap": mapped_twice,
    "per-sample gradients": per_sample_gradients,
    "functionalize": functionalized,
    # graphs
    "torch.compile, fullgraph, dynamic": lambda f, x, w: compiled(f, x, w, dynamic=True, backend="aot_eager"),
    "torch.compile, backward": compiled_backward,
    'mode="reduce-overhead" (on a CPU, Inductor alone)': lambda f, x, w: compiled(f, x, w, mode="reduce-overhead"),
    "compiled autograd": compiled_autograd,
    "a size that depends on data": compiled_of_data_dependent_size,
    "torch.export, strict": lambda f, x, w: exported(f, x, w, True),
    "torch.export, dynamic sizes": lambda f, x, w: exported(f, x, w, False),
    "an exported program saved and loaded": saved_program,
    "make_fx": lambda f, x, w: made_fx(f, x, w, "real"),
    "make_fx, symbolic sizes": lambda f, x, w: made_fx(f, x, w, "symbolic"),
    "torch.fx.symbolic_trace": traced_by_fx,
    "torch.jit.trace": traced_by_jit,
    "torch.jit.script": scripted,
    "fake tensors": fake,
    "meta tensors, strides too": meta,
    "2³⁴ pixels, on meta": beyond_32_bits,
    # types
    "float64": lambda f, x, w: of_type(f, x, w, torch.float64, 1e-5),
    "bfloat16": lambda f, x, w: of_type(f, x, w, torch.bfloat16, 2e-2),
    "float16": lambda f, x, w: of_type(f, x, w, torch.float16, 4e-3),
    "autocast to bfloat16": lambda f, x, w: autocast(f, x, w, torch.bfloat16),
    "autocast to float16": lambda f, x, w: autocast(f, x, w, torch.float16),
    "autocast of mixed types": autocast_of_mixed_types,
    "autocast, filters cast once in a region": autocast_of_filters_once,
    "autocast switched off inside": autocast_switched_off,
    # memory
    "transposed": lambda f, x, w: strided(f, x, w, lambda t: t.mT.contiguous().mT),
    "every second element": lambda f, x, w: strided(f, x, w, of_every_second),
    "channels_last": lambda f, x, w: strided(f, x, w, lambda t: t.contiguous(memory_format=torch.channels_last)),
    "an unaligned address": lambda f, x, w: strided(f, x, w, from_the_middle),
    "an expanded batch": expanded,
    "stride 0 everywhere": one_number_everywhere,
    "an empty batch": empty_batch,
    "the result copied": copied_result,
    # machinery
    "four threads": in_threads,
    "deterministic algorithms": deterministic,
    "a tensor subclass": subclassed,
    "a wrapper subclass": two_tensors,
    "a dispatch mode": dispatch_mode,
    "function modes": function_mode,
    "flop counter": counted,
    "profiler": profiled,
    # errors
    "out=": into_a_tensor,
    "x None": lambda f, x, w: f(None, w),
    "filters None": lambda f, x, w: f(x, None),
    "x of numpy": lambda f, x, w: f(np.zeros(x.shape, np.float32), w),
    "sparse x": lambda f, x, w: f(x.to_sparse(), w),
    "nested x": lambda f, x, w: f(torch.nested.nested_tensor([x, x]), w),
    "x of one dimension less (one image)": lambda f, x, w: f(x[0], w),
    "x a single number": lambda f, x, w: f(torch.tensor(1.0), w),
    "an image without pixels": lambda f, x, w: f(x[:, :, :0], w),
    "x on meta, filters on the CPU": lambda f, x, w: f(x.to("meta"), w),
    "x and filters of two dtypes": lambda f, x, w: f(x.double(), w),
    "integers": lambda f, x, w: f(x.long(), w.long()),
    "booleans": lambda f, x, w: f(x.bool(), w.bool()),
    "float8": lambda f, x, w: f(x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)),
    "complex numbers": lambda f, x, w: f(x.cfloat(), w.cfloat()),
}
