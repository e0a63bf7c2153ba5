"""What is tried with a module and an image: nn.Conv2d and DeltaConvBlock. Both have `weight`, `bias` and 8 channels."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.utils.checkpoint
from situations import same
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.modules import module as modules
from torch.nn.utils import parametrizations, parametrize, prune

import deltaconv_kernels as dk

Make = Callable[..., Any]  # a module, with `device` and `dtype` where they are given

MODULES: dict[str, tuple[Make, tuple[int, ...]]] = {
    "nn.Conv2d": (partial(nn.Conv2d, 8, 8, 3, padding=1, groups=8), (2, 8, 6, 5)),
    "DeltaConvBlock": (partial(dk.DeltaConvBlock, 8, kernel_size=3), (2, 6, 5, 8)),
}


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(module(x).square().sum(), list(module.parameters())))


def gradients_by_name(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in module.named_parameters()]
    return dict(sorted(zip(names, gradients(module, x), strict=True)))


def gradients_left(module: nn.Module) -> list[Tensor]:
    left = [parameter.grad for parameter in module.parameters()]
    assert all(g is not None for g in left)
    return [g for g in left if g is not None]


def deep_copied(make: Make, x: Tensor) -> None:
    module = make()
    other, expected = copy.deepcopy(module), module(x)
    with torch.no_grad():
        module.weight.zero_()
    same(other(x), expected, 0)


def pickled(make: Make, x: Tensor) -> None:
    module = make()
    same(pickle.loads(pickle.dumps(module))(x), module(x), 0)


def written_to_a_file(value: Any, **options: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **options)


def saved(make: Make, x: Tensor) -> None:
    module = make()
    same(written_to_a_file(module, weights_only=False)(x), module(x), 0)


def state_moved(make: Make, x: Tensor, **options: Any) -> None:
    module, other = make(), make()
    other.load_state_dict(written_to_a_file(module.state_dict()), **options)
    same(other(x), module(x), 0)


def state_with(make: Make, x: Tensor, change: Callable[[dict[str, Tensor]], Any], **options: Any) -> None:
    state = make().state_dict()
    change(state)
    make().load_state_dict(state, **options)


def made_on_meta(make: Make, x: Tensor) -> None:
    with torch.device("meta"):
        module = make()
    assert module.weight.is_meta
    results = []
    for real in (module.to_empty(device="cpu"), make()):
        torch.manual_seed(1)
        real.reset_parameters()
        results.append(real(x))
    same(results[0], results[1], 0)


def assigned_to_meta(make: Make, x: Tensor) -> None:
    module, empty = make(), make(device="meta")
    empty.load_state_dict(module.state_dict(), assign=True)
    same(empty(x), module(x), 0)


def made_fake(make: Make, x: Tensor) -> None:
    with torch._subclasses.FakeTensorMode() as mode:
        module = make()
        assert module(mode.from_tensor(x)).shape == x.shape


def made_uninitialised(make: Make, x: Tensor) -> None:
    module, other = torch.nn.utils.skip_init(make.func, *make.args, **make.keywords), make()  # type: ignore[attr-defined]
    module.load_state_dict(other.state_dict())
    same(module(x), other(x), 0)


def with_default_dtype(make: Make, x: Tensor) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert make()(x.double()).dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


def converted(make: Make, x: Tensor, dtype: torch.dtype, budget: float) -> None:
    module = make()
    expected = module(x)
    y = module.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    same(y, expected, budget)


def in_channels_last(make: Make, x: Tensor) -> None:
    module = make()
    expected = module(x)
    same(module.to(memory_format=torch.channels_last)(x), expected)


@contextmanager
def future(name: str) -> Iterator[None]:
    get, set_ = (getattr(torch.__future__, f"{verb}_{name}") for verb in ("get", "set"))
    before = get()
    set_(True)
    try:
        yield
    finally:
        set_(before)


def converted_by(make: Make, x: Tensor, name: str) -> None:
    module = make()
    parameter = module.weight
    with future(name):
        module.to(torch.bfloat16)
        assert module.weight.dtype == torch.bfloat16
        assert module(x.bfloat16()).dtype == torch.bfloat16
    if name == "swap_module_params_on_conversion":
        assert module.weight is parameter


def shared(make: Make, x: Tensor) -> None:
    module = make()
    expected = module(x)
    same(module.share_memory()(x), expected, 0)
    assert all(parameter.is_shared() for parameter in module.parameters())


def forward_hooks(make: Make, x: Tensor) -> None:
    module = make()
    expected = module(2 * x) + 1
    module.register_forward_pre_hook(lambda module, arguments: (2 * arguments[0],))
    module.register_forward_hook(lambda module, arguments, output: output + 1)
    same(module(x), expected, 0)


def backward_hooks(make: Make, x: Tensor) -> None:
    module, seen = make(), []
    module.register_full_backward_hook(lambda module, into, out: seen.append((into[0], out[0])))
    x = x.clone().requires_grad_()
    y = module(x)
    y.square().sum().backward()
    same(seen[0], [x.grad, 2 * y])


def global_hooks(make: Make, x: Tensor) -> None:
    module, seen = make(), []
    handle = modules.register_module_forward_hook(lambda module, arguments, output: seen.append(module))
    try:
        module(x)
    finally:
        handle.remove()
    assert seen[-1] is module


def parameter_hooks(make: Make, x: Tensor) -> None:
    module, seen = make(), []
    expected = gradients(module, x)
    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter))
    module.weight.register_hook(lambda g: 3 * g)
    module(x).square().sum().backward()
    assert len(seen) == len(expected)
    same(module.weight.grad, 3 * expected[0])


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrized(make: Make, x: Tensor) -> None:
    module, other = make(), make()
    other.load_state_dict(module.state_dict())
    with torch.no_grad():
        other.weight.mul_(2)
    parametrize.register_parametrization(module, "weight", Doubled())
    same(module(x), other(x))
    module(x).square().sum().backward()
    same(module.parametrizations.weight.original.grad, 2 * gradients(other, x)[0])


def normed(make: Make, x: Tensor, norm: Callable[..., Any]) -> None:
    module = make()
    expected = module(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = norm(module)
        result = module(x)
    if norm is not parametrizations.spectral_norm:  # the other one divides by a norm and multiplies by it again
        same(result, expected)
    result.square().sum().backward()
    gradients_left(module)


def pruned(make: Make, x: Tensor) -> None:
    module = make()
    prune.l1_unstructured(module, "weight", amount=0.5)
    assert (module.weight == 0).float().mean() == 0.5
    result = module(x)
    module.weight_orig.grad = None
    result.square().sum().backward()
    assert not module.weight_orig.grad[module.weight == 0].any()
    prune.remove(module, "weight")
    same(module(x), result, 0)


def called_with_other_parameters(make: Make, x: Tensor) -> None:
    module, other = make(), make()
    parameters = dict(other.named_parameters())
    same(functional_call(module, parameters, (x,)), other(x), 0)
    gradient = grad(lambda parameters: functional_call(module, parameters, (x,)).square().sum())(parameters)
    same(list(gradient.values()), gradients(other, x))


def ensemble(make: Make, x: Tensor) -> None:
    members = [make() for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    base = make(device="meta")
    together = vmap(lambda p, b, x: functional_call(base, (p, b), (x,)), (0, 0, None))(parameters, buffers, x)
    same(together, torch.stack([member(x) for member in members]))


def tied(make: Make, x: Tensor) -> None:
    first, second = make(), make()
    second.weight = first.weight
    second(first(x)).square().sum().backward()
    assert first.weight.grad is second.weight.grad
    assert first.weight.grad.any()


def one_parameter_trained(make: Make, x: Tensor) -> None:
    module = make().requires_grad_(False)
    module.weight.requires_grad_()
    module(x).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["weight"]
    same(module.weight.grad, gradients(module.requires_grad_(True), x)[0])


def gradient_of_x_alone(make: Make, x: Tensor) -> None:
    module = make()
    x = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(x).square().sum(), x)
    module.requires_grad_(False)
    module(x).square().sum().backward()
    same(x.grad, expected)


def steps(make: Make, x: Tensor, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    module, target = make(), torch.zeros_like(x)
    optimizer_of_module = optimizer(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = nn.functional.mse_loss(module(x), target)
        losses.append(loss.item())
        optimizer_of_module.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer_of_module.step()
    assert losses[-1] < losses[0]


def averaged(make: Make, x: Tensor) -> None:
    module = make()
    mean = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    mean.update_parameters(module)
    same(mean(x), module(x), 0)


def as_a_vector(make: Make, x: Tensor) -> None:
    module = make()
    vector = nn.utils.parameters_to_vector(module.parameters())
    expected = module(x)
    nn.utils.vector_to_parameters(torch.zeros_like(vector), module.parameters())
    nn.utils.vector_to_parameters(vector, module.parameters())
    same(module(x), expected, 0)


def checkpointed(make: Make, x: Tensor) -> None:
    module = make()
    torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).square().sum().backward()
    same(gradients_left(module), gradients(module, x), 0)


def checkpoint_wrapped(make: Make, x: Tensor) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    module = make()
    expected = gradients(module, x)
    same(gradients(checkpoint_wrapper(module), x), expected, 0)


def autocast(make: Make, x: Tensor) -> None:
    module = make()
    expected = gradients(module, x)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    same(gradients_left(module), expected, 0.1)


def second_derivatives(make: Make, x: Tensor) -> None:
    module = make()
    first = torch.autograd.grad(module(x).square().sum(), list(module.parameters()), create_graph=True)
    sum(g.square().sum() for g in first).backward()


def compiled_in_place(make: Make, x: Tensor) -> None:
    module = make()
    expected, right = module(x), gradients(module, x)
    module.compile(backend="aot_eager")
    same(module(x), expected)
    same(gradients(module, x), right)


def compiled_with_hooks(make: Make, x: Tensor) -> None:
    module = make()
    module.register_forward_hook(lambda module, arguments, output: 2 * output)
    same(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))


def exported(make: Make, x: Tensor, strict: bool) -> None:
    module = make()
    same(torch.export.export(module, (x,), strict=strict).module()(x), module(x))


def exported_for_training(make: Make, x: Tensor) -> None:
    module = make()
    program = torch.export.export(module, (x,)).module()
    same(gradients(program, x), gradients(module, x))


def traced_by_fx(make: Make, x: Tensor) -> None:
    """As the model itself, and as a part of one that is trained."""
    module = make()
    same(torch.fx.symbolic_trace(module)(x), module(x))
    model = nn.Sequential(nn.ReLU(), module)
    graph = torch.fx.symbolic_trace(model)
    same(graph(x), model(x))
    ours, expected = gradients_by_name(graph, x), gradients_by_name(model, x)
    assert list(ours) == list(expected)
    same(list(ours.values()), list(expected.values()))


def traced_by_jit(make: Make, x: Tensor) -> None:
    module = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, (x,))
    for image in (x, torch.cat([x, x])[:3, 1:] if x.shape[-1] == 8 else torch.cat([x, x])[:3, :, 1:]):
        same(traced(image), module(image))


def scripted(make: Make, x: Tensor) -> None:
    module = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(torch.jit.script(module)(x), module(x))


@contextmanager
def one_process() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield dist.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def in_ddp(make: Make, x: Tensor) -> None:
    module = make()
    expected = gradients(module, x)
    with one_process():
        nn.parallel.DistributedDataParallel(module)(x).square().sum().backward()
    same(gradients_left(module), expected)


def in_fsdp(make: Make, x: Tensor) -> None:
    module = make()
    expected = gradients(module, x)
    with one_process() as mesh:
        dist.fsdp.fully_shard(module, mesh=mesh)
        module(x).square().sum().backward()
        same([g.full_tensor() for g in gradients_left(module)], expected)  # type: ignore[attr-defined]


def in_dtensor(make: Make, x: Tensor) -> None:
    from torch.distributed.tensor import distribute_module, distribute_tensor

    module = make()
    expected = gradients(module, x)
    with one_process() as mesh:
        distribute_module(module, mesh)
        module(distribute_tensor(x, mesh)).square().sum().backward()
        same([g.full_tensor() for g in gradients_left(module)], expected)  # type: ignore[attr-defined]


def in_data_parallel(make: Make, x: Tensor) -> None:
    module = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(nn.DataParallel(module)(x), module(x), 0)


def quantized(make: Make, x: Tensor) -> None:
    module = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(torch.ao.quantization.quantize_dynamic(module)(x), module(x), 0.05)


def cast_by_layers(make: Make, x: Tensor) -> None:
    """Stored in 8 bits, computed in float32."""
    module = make().requires_grad_(False).to(torch.float8_e4m3fn)
    expected = copy.deepcopy(module).float()(x)
    module.register_forward_pre_hook(lambda module, arguments: module.float() and None)
    module.register_forward_hook(lambda module, arguments, output: module.to(torch.float8_e4m3fn) and None)
    same(module(x), expected, 0)
    assert module.weight.dtype == torch.float8_e4m3fn


def parameters_of_a_subclass(make: Make, x: Tensor) -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    module = make()
    doubled = copy.deepcopy(module)
    with torch.no_grad():
        doubled.weight.mul_(2)
    expected = module(x), doubled(x)
    module.weight = nn.Parameter(TwoTensor(module.weight.detach(), 2 * module.weight.detach()))
    result: Any = module(x)
    same([result.a, result.b], expected)


def parameters_of_inference_mode(make: Make, x: Tensor) -> None:
    with torch.inference_mode():
        module = make()
        expected = module(x)
    with torch.no_grad():
        same(module(x), expected, 0)


def empty_batch(make: Make, x: Tensor) -> None:
    module = make()
    y = module(x[:0])
    assert y.shape == x[:0].shape
    y.sum().backward()
    assert not any(g.any() for g in gradients_left(module))


SITUATIONS: dict[str, Callable[[Make, Tensor], Any]] = {
    # states
    "deepcopy": deep_copied,
    "pickle": pickled,
    "torch.save of the module": saved,
    "state_dict, saved and loaded": state_moved,
    "load_state_dict(assign=True)": lambda make, x: state_moved(make, x, assign=True),
    "load_state_dict, a key missing": lambda make, x: state_with(make, x, lambda state: state.pop("bias")),
    "a key missing, strict=False": lambda make, x: state_with(make, x, lambda state: state.pop("bias"), strict=False),
    "load_state_dict, a wrong shape": lambda make, x: state_with(make, x, lambda s: s.update(weight=torch.zeros(3))),
    "made on meta, to_empty, reset_parameters": made_on_meta,
    "made on meta, assigned": assigned_to_meta,
    "made of fake tensors": made_fake,
    "skip_init": made_uninitialised,
    "set_default_dtype": with_default_dtype,
    "parameters made in inference mode": parameters_of_inference_mode,
    # conversions
    ".double()": lambda make, x: converted(make, x, torch.float64, 1e-5),
    ".bfloat16()": lambda make, x: converted(make, x, torch.bfloat16, 3e-2),
    ".half()": lambda make, x: converted(make, x, torch.float16, 5e-3),
    ".to(memory_format=torch.channels_last)": in_channels_last,
    "set_swap_module_params_on_conversion": lambda m, x: converted_by(m, x, "swap_module_params_on_conversion"),
    "set_overwrite_module_params_on_conversion": lambda m, x: converted_by(
        m, x, "overwrite_module_params_on_conversion"
    ),
    "share_memory": shared,
    "dynamic quantization": quantized,
    "stored in 8 bits, cast by hooks": cast_by_layers,
    "weight of a wrapper subclass": parameters_of_a_subclass,
    # hooks and parametrizations
    "forward hooks": forward_hooks,
    "full backward hook": backward_hooks,
    "hooks on every module": global_hooks,
    "hooks on parameters": parameter_hooks,
    "parametrize": parametrized,
    "weight_norm": lambda make, x: normed(make, x, parametrizations.weight_norm),
    "weight_norm of old": lambda make, x: normed(make, x, nn.utils.weight_norm),
    "spectral_norm": lambda make, x: normed(make, x, parametrizations.spectral_norm),
    "prune": pruned,
    # training
    "functional_call, and grad of it": called_with_other_parameters,
    "an ensemble: stack_module_state and vmap": ensemble,
    "tied weights": tied,
    "one parameter trained": one_parameter_trained,
    "frozen, gradient of x": gradient_of_x_alone,
    "SGD": lambda make, x: steps(make, x, torch.optim.SGD),
    "Adam, fused": lambda make, x: steps(make, x, partial(torch.optim.Adam, fused=True)),
    "AveragedModel": averaged,
    "parameters_to_vector": as_a_vector,
    "checkpointing": checkpointed,
    "checkpoint_wrapper": checkpoint_wrapped,
    "training under autocast": autocast,
    "second derivatives": second_derivatives,
    "an empty batch": empty_batch,
    # graphs
    "module.compile()": compiled_in_place,
    "torch.compile with hooks": compiled_with_hooks,
    "torch.export, strict": lambda make, x: exported(make, x, True),
    "torch.export": lambda make, x: exported(make, x, False),
    "torch.export, gradients of the program": exported_for_training,
    "torch.fx.symbolic_trace": traced_by_fx,
    "torch.jit.trace": traced_by_jit,
    "torch.jit.script": scripted,
    # processes
    "DistributedDataParallel": in_ddp,
    "fully_shard": in_fsdp,
    "distribute_module": in_dtensor,
    "DataParallel": in_data_parallel,
    # errors
    "x None": lambda make, x: make()(None),
    "x of numpy": lambda make, x: make()(np.zeros(x.shape, np.float32)),
    "x of one dimension less (one image)": lambda make, x: make()(x[0]),
    "x with other channels": lambda make, x: make()(x.new_zeros(2, 6, 6, 6)),
    "x of another dtype": lambda make, x: make()(x.double()),
    "x on meta": lambda make, x: make()(x.to("meta")),
}
