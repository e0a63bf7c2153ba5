"""Inside an autocast region a weight is cast once, as for PyTorch's own operators, and never to a stale value."""

import threading

import pytest
import torch
from torch.func import grad, vmap

import deltaconv_kernels as dk
from deltaconv_kernels import autocast_cache
from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, relative_error

CASE = make_case(Shape(2, 6, 5, 8, 3))


def call(weight, bias, x=CASE.x):
    return dk.pyramid(x, weight, bias, CASE.factors)


def region(dtype=torch.bfloat16, **options):
    return torch.autocast("cpu", dtype, **options)


@pytest.fixture
def leaves():
    yield CASE.weight.clone().requires_grad_(), CASE.bias.clone().requires_grad_()
    assert not autocast_cache._kept, "casts outlived their region"


def casts_of(result, leaf):
    """The nodes of a graph that cast ``leaf``."""
    nodes, found = [result.grad_fn], set()
    while nodes:
        node = nodes.pop()
        for below, _ in node.next_functions:
            if below is not None:
                nodes.append(below)
                found |= {node} if getattr(below, "variable", None) is leaf else set()
    return found


def test_once_in_a_region(leaves):
    with region():
        first, second = call(*leaves), call(*leaves)
        with region(torch.float16):
            other = call(*leaves)
        with region(enabled=False):
            assert call(*leaves).dtype == torch.float32
        third = call(*leaves)
    with region():
        later = call(*leaves)
    for leaf in leaves:
        assert len(casts_of(first, leaf)) == 1
        assert casts_of(first, leaf) == casts_of(second, leaf) == casts_of(third, leaf)
        assert not casts_of(first, leaf) & (casts_of(later, leaf) | casts_of(other, leaf))


def test_gradients_of_several_calls_add_up(leaves):
    with region():
        loss = call(*leaves).float().sum() + 2 * call(*leaves, x=2 * CASE.x).float().sum()
        call(*leaves).float().sum().backward()  # the cast's node goes through backward twice
    loss.backward()
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    x = CASE.x.double()
    (2 * call(*exact, x=x).sum() + 2 * call(*exact, x=2 * x).sum()).backward()
    for leaf, right in zip(leaves, exact, strict=True):
        assert relative_error(leaf.grad, right.grad) <= ERROR_BUDGET[torch.bfloat16]


def test_a_weight_that_changes_is_cast_again(leaves):
    with region(), torch.no_grad():
        before = call(*leaves)
        leaves[0].mul_(2)
        leaves[1].zero_()
        changed = call(*leaves)
    assert not torch.equal(before, changed)
    with region():
        assert torch.equal(call(*leaves), changed)


@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode])
def test_a_call_without_gradients_before_one_with(leaves, first):
    with region():
        with first():
            expected = call(*leaves)
        result = call(*leaves)
        with first():
            assert not call(*leaves).requires_grad
    assert torch.equal(result, expected)
    result.float().sum().backward()
    assert all(leaf.grad.any() for leaf in leaves)


def test_what_frees_the_casts(leaves):
    with region():
        first = call(*leaves)
        assert len(autocast_cache._kept) == 2
        torch.clear_autocast_cache()
        assert not autocast_cache._kept
        assert not casts_of(first, leaves[0]) & casts_of(call(*leaves), leaves[0])
    assert not autocast_cache._kept


def test_a_region_of_another_device(leaves):
    """The token is of the CPU in a GPU's region too: PyTorch has one cache, and its outermost region clears it."""
    torch.set_autocast_enabled("cuda", True)  # what torch.autocast("cuda") does where there is a GPU
    torch.autocast_increment_nesting()
    try:
        first = autocast_cache.cast_once(leaves[0], torch.float16)
        assert autocast_cache.cast_once(leaves[0], torch.float16) is first
    finally:
        torch.set_autocast_enabled("cuda", False)
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def test_outside_of_regions(leaves):
    assert autocast_cache.cast_once(leaves[0], torch.bfloat16).dtype == torch.bfloat16
    assert not autocast_cache._kept


def test_where_nothing_is_kept(leaves):
    with region(cache_enabled=False):
        call(*leaves)
        assert not autocast_cache._kept
    frozen = [leaf.detach() for leaf in leaves]
    with region():
        call(*frozen)
        call(leaves[0] * 1, leaves[1].view(2, 8))
        call(*(leaf.double() for leaf in leaves), x=CASE.x.double())
        vmap(lambda x: call(*leaves, x=x))(CASE.x[None])
        grad(lambda weight: call(weight, leaves[1]).float().sum())(leaves[0])
        assert not autocast_cache._kept


def test_in_compiled_code_and_checkpoints(leaves):
    torch._dynamo.reset()

    def twice(weight, bias):
        return call(weight, bias) + call(weight, bias)

    results = []
    for function in (
        twice,
        torch.compile(twice, fullgraph=True, backend="aot_eager"),
        lambda *leaves: torch.utils.checkpoint.checkpoint(twice, *leaves, use_reentrant=False),
    ):
        with region():
            y = function(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y.float().sum(), leaves)])
    for other in results[1:]:
        for result, expected in zip(other, results[0], strict=True):
            assert relative_error(result, expected) <= ERROR_BUDGET[torch.bfloat16]


def test_regions_of_several_threads(leaves):
    with region():
        expected = call(*leaves)
    results = []

    def work():
        for _ in range(20):
            with region():
                results.append(call(*leaves).detach())
                results.append(call(*leaves).detach())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 120
    assert all(torch.equal(result, expected) for result in results)
