"""torch.func on the operator and the block: forward mode, reverse mode, vmap, and each inside another."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, relative_error

SHAPE = Shape(2, 6, 5, 4, 3)
NAMES = ("x", "weight", "bias", "residual")


def problem(seed=0, dtype=torch.float64):
    """x, weight, bias and residual; other seeds give tangents or more calls for vmap."""
    case = make_case(SHAPE, dtype, residual=True, seed=seed)
    return case.x, case.weight, case.bias, case.residual


def pyramid(gate):
    return lambda x, weight, bias, residual: dk.pyramid(x, weight, bias, SHAPE.factors, gate, 1.3, residual)


def specified(gate):
    """The same in operators whose derivatives PyTorch knows."""
    return lambda x, weight, bias, residual: reference.pyramid_forward(
        x, weight, bias, SHAPE.factors, gate, 1.3, residual
    )


def assert_all_close(results, expected, budget=1e-12):
    for result, right in zip(results, expected, strict=True):
        assert relative_error(result.detach(), right.detach()) <= budget


@pytest.mark.parametrize("wanted", [*[(i,) for i in range(4)], (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("gate", reference.GATES)
def test_jvp(backend, gate, wanted):
    tensors, tangents = problem(), problem(seed=1)

    def of(function):
        def some(*changed):
            return function(*[dict(zip(wanted, changed, strict=True)).get(i, t) for i, t in enumerate(tensors)])

        return jvp(some, tuple(tensors[i] for i in wanted), tuple(tangents[i] for i in wanted))

    assert_all_close(of(pyramid(gate)), of(specified(gate)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_jvp_keeps_the_error_budget(backend, dtype):
    tensors, tangents = problem(dtype=dtype), problem(seed=1, dtype=dtype)
    _, tangent = jvp(pyramid("sigmoid"), tensors, tangents)
    exact = [[t.double() for t in group] for group in (tensors, tangents)]
    _, expected = jvp(specified("sigmoid"), tuple(exact[0]), tuple(exact[1]))
    assert tangent.dtype == dtype
    assert relative_error(tangent, expected) <= ERROR_BUDGET[dtype]


@pytest.mark.parametrize("recorded", [False, True], ids=["no_grad", "grad"])
def test_dual_numbers(backend, recorded):
    tensors, tangents = problem(), problem(seed=1)
    _, expected = jvp(specified("scaled"), tensors, tangents)
    with forward_ad.dual_level(), torch.set_grad_enabled(recorded):
        duals = [forward_ad.make_dual(t.requires_grad_(recorded), u) for t, u in zip(tensors, tangents, strict=True)]
        primal, tangent = forward_ad.unpack_dual(pyramid("scaled")(*duals))
    assert primal.requires_grad == recorded
    assert_all_close([tangent], [expected])


def test_forward_mode_gradcheck(backend):
    leaves = [t.requires_grad_() for t in problem()]
    assert torch.autograd.gradcheck(pyramid("sigmoid"), leaves, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("gate", reference.GATES)
@pytest.mark.parametrize("jacobian", [jacfwd, jacrev])
def test_jacobians(backend, jacobian, gate):
    everything = (0, 1, 2, 3)
    ours, right = (jacobian(f(gate), everything)(*problem()) for f in (pyramid, specified))
    assert_all_close(ours, right)


def test_reverse_over_forward(backend):
    x, *others = problem()
    tangent = problem(seed=1)[0]

    def of(function):
        return grad(lambda x: jvp(lambda x: function(x, *others), (x,), (tangent,))[1].square().sum())(x)

    assert_all_close([of(pyramid("sigmoid"))], [of(specified("sigmoid"))])


@pytest.mark.parametrize("second", [jacfwd, jacrev, grad])
def test_differentiating_twice_says_why_not(backend, second):
    x, *others = problem()

    def loss(x):
        return pyramid("scaled")(x, *others).square().sum()

    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        second(lambda x: grad(loss)(x).sum())(x)


def test_ordinary_autograd_around_transforms(backend):
    xs = torch.stack([problem(seed)[0] for seed in range(2)]).requires_grad_()
    _, *others = problem()
    tangents = torch.ones_like(xs)
    results = []
    for function in (pyramid("sigmoid"), specified("sigmoid")):
        batched = vmap(lambda x, function=function: function(x, *others))
        _, tangent = jvp(batched, (xs,), (tangents,))
        results.append(torch.autograd.grad((batched(xs) + tangent).square().sum(), xs)[0])
    assert_all_close(results[:1], results[1:])


def test_differentiating_a_transform_twice_says_why_not(backend):
    x, *others = problem()
    x.requires_grad_()
    gradient = grad(lambda x: pyramid("scaled")(x, *others).square().sum())(x)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        gradient.sum().backward()


def test_vjp_and_compiled_jvp(backend):
    torch._dynamo.reset()
    tensors, tangents = problem(), problem(seed=1)
    cotangent = problem(seed=2)[3]
    pulled, expected = (vjp(f("scaled"), *tensors)[1](cotangent) for f in (pyramid, specified))
    assert_all_close(pulled, expected)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def pushed(*tensors):
        return jvp(pyramid("scaled"), tensors, tangents)

    assert_all_close(pushed(*tensors), jvp(specified("scaled"), tensors, tangents))


@pytest.mark.parametrize(
    "in_dims", [d for d in itertools.product((0, None), repeat=4) if any(x == 0 for x in d)], ids=str
)
def test_vmap_and_gradients_under_it(backend, in_dims):
    """Over any of the arguments: results, and per-sample gradients of every argument."""
    calls = [problem(seed) for seed in range(3)]
    tensors = [
        torch.stack(ts) if dim == 0 else ts[0] for ts, dim in zip(zip(*calls, strict=True), in_dims, strict=True)
    ]
    each = [[t[i] if dim == 0 else t for t, dim in zip(tensors, in_dims, strict=True)] for i in range(3)]
    function = pyramid("sigmoid")
    assert_all_close(vmap(function, in_dims)(*tensors), [function(*arguments) for arguments in each])
    gradients = grad(lambda *arguments: function(*arguments).square().sum(), (0, 1, 2, 3))
    expected = zip(*(gradients(*arguments) for arguments in each), strict=True)
    assert_all_close(vmap(gradients, in_dims)(*tensors), [torch.stack(gs) for gs in expected])


def test_vmap_over_other_axes_and_twice(backend):
    x, weight, bias, residual = (torch.stack(ts) for ts in zip(*(problem(seed) for seed in range(3)), strict=True))
    expected = vmap(pyramid("scaled"))(x, weight, bias, residual)
    moved = x.movedim(0, 1), weight.movedim(0, -1), bias.movedim(0, 1), residual.movedim(0, 2)
    assert torch.equal(vmap(pyramid("scaled"), (1, -1, 1, 2), out_dims=4)(*moved).movedim(4, 0), expected)

    def without_bias(x, weight):
        return dk.pyramid(x, weight, None, SHAPE.factors)

    pairs = vmap(vmap(without_bias, (0, None)), (None, 0))(x, weight)
    each = [without_bias(x[j], weight[i]) for i in range(3) for j in range(3)]
    assert_all_close(pairs.flatten(0, 1), each)


@pytest.fixture
def block():
    torch.manual_seed(0)
    return dk.DeltaConvBlock(8, kernel_size=3, dtype=torch.float64)


def images(count=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, 6, 5, 8, generator=generator, dtype=torch.float64)


def as_module(block):
    return lambda x, residual=None: block(x, residual)


def as_function(block):
    return lambda x, residual=None: dk.delta_block(*block.arguments(x, residual))


FORMS = pytest.mark.parametrize("form", [as_module, as_function])


@FORMS
@pytest.mark.parametrize("recorded", [False, True], ids=["frozen", "training"])
def test_jvp_of_a_block(backend, block, form, recorded):
    block.requires_grad_(recorded)
    x, tangent = images(2)
    step = 1e-6 * tangent
    function = form(block)
    _, result = jvp(lambda x: function(x, x), (x,), (tangent,))
    difference = (function(x + step, x + step) - function(x - step, x - step)) / 2e-6
    assert relative_error(result.detach(), difference.detach()) <= 1e-8


@FORMS
def test_per_sample_gradients_of_a_block(backend, block, form):
    parameters = dict(block.named_parameters())
    x, residual = images(3), images(3).flip(0)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x, residual):
            return form(self.block)(x, residual).square().sum()

    loss = Loss()
    named = {f"block.{name}": parameter for name, parameter in parameters.items()}

    def of(parameters, x, residual):
        return functional_call(loss, parameters, (x, residual))

    together = vmap(grad(of), (None, 0, 0))(named, x, residual)
    for i in range(3):
        alone = grad(of)(named, x[i], residual[i])
        assert_all_close([together[name][i] for name in named], [alone[name] for name in named])


@FORMS
def test_vmap_over_a_residual_or_one_projection_alone(backend, block, form):
    block.requires_grad_(False)
    (x,), residuals = images(), images(3)
    function = form(block)
    assert_all_close(vmap(function, (None, 0))(x, residuals), [function(x, residual) for residual in residuals])
    weights = torch.stack([block.pool_proj.weight * scale for scale in (1.0, 2.0, 3.0)])

    def with_weight(weight):
        return dk.delta_block(*block.arguments(x, x)._replace(pool_weight=weight))

    assert_all_close(vmap(with_weight)(weights), [with_weight(weight) for weight in weights])
