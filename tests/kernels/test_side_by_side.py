"""The same situations for F.conv2d and the operator; docs/side_by_side.md holds the table that comes out."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import deltaconv_kernels as dk
from deltaconv_kernels.testing import relative_error

PAGE = Path(__file__).parents[2] / "docs" / "side_by_side.md"
OPERATORS = {
    "conv2d": (lambda x, w: F.conv2d(x, w, padding=1, groups=4), (2, 4, 6, 5), (4, 1, 3, 3)),
    "pyramid": (lambda x, w: dk.pyramid(x, w, None, (1, 2)), (2, 6, 5, 4), (2, 3, 3, 4)),
}


def same(result, expected, budget=1e-5):
    results, right = ([t] if isinstance(t, torch.Tensor) else list(t) for t in (result, expected))
    assert all(relative_error(a.detach(), b.detach()) <= budget for a, b in zip(results, right, strict=True))


def finite_difference(f, x, w, tangent):
    return (f(x.double() + 1e-5 * tangent, w.double()) - f(x.double() - 1e-5 * tangent, w.double())) / 2e-5


def autocast(f, x, w):
    with torch.autocast("cpu", torch.bfloat16):
        assert f(x, w).dtype == torch.bfloat16


def compiled(f, x, w):
    torch._dynamo.reset()
    same(torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")(x, w), f(x, w))


def exported(f, x, w):
    class Model(torch.nn.Module):
        def forward(self, x, w):
            return f(x, w)

    same(torch.export.export(Model(), (x, w)).module()(x, w), f(x, w))


def backward(f, x, w):
    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    f(*leaves).sum().backward()
    assert all(leaf.grad.abs().sum() > 0 for leaf in leaves)


SITUATIONS = {
    "no gradient": lambda f, x, w: f(x, w),
    "inference mode": lambda f, x, w: torch.inference_mode()(f)(x, w),
    "backward": backward,
    "an empty batch": lambda f, x, w: f(x[:0], w),
    "float64": lambda f, x, w: same(f(x.double(), w.double()), f(x, w)),
    "bfloat16": lambda f, x, w: same(f(x.bfloat16(), w.bfloat16()), f(x, w), 2e-2),
    "strided x": lambda f, x, w: same(f(x.mT.contiguous().mT, w), f(x, w)),
    "meta tensors": lambda f, x, w: f(x.to("meta"), w.to("meta")),
    "autocast": autocast,
    "torch.compile, fullgraph, dynamic": compiled,
    "torch.export": exported,
    "jvp": lambda f, x, w: same(
        jvp(lambda x: f(x, w), (x,), (torch.ones_like(x),))[1], finite_difference(f, x, w, torch.ones_like(x))
    ),
    "vjp": lambda f, x, w: vjp(f, x, w)[1](f(x, w)),
    "jacrev equals jacfwd": lambda f, x, w: same(jacrev(f)(x, w), jacfwd(f)(x, w)),
    "vmap over x": lambda f, x, w: same(vmap(f, (0, None))(torch.stack([x, 2 * x]), w)[0], f(x, w)),
    "vmap over the weights": lambda f, x, w: same(vmap(f, (None, 0))(x, torch.stack([w, 2 * w]))[0], f(x, w)),
    "per-sample gradients": lambda f, x, w: same(
        vmap(grad(lambda w, x: f(x, w).sum()), (None, 0))(w, x[:, None])[0],
        grad(lambda w: f(x[:1], w).sum())(w),
    ),
    "checkpointing": lambda f, x, w: (
        torch.utils.checkpoint.checkpoint(f, x, w.requires_grad_(), use_reentrant=False).sum().backward()
    ),
    "second derivatives": lambda f, x, w: hessian(lambda w: f(x, w).square().sum())(w),
    "x None": lambda f, x, w: f(None, w),
    "x of numpy": lambda f, x, w: f(np.zeros(x.shape, np.float32), w),
    "sparse x": lambda f, x, w: f(x.to_sparse(), w),
    "x and weight of two dtypes": lambda f, x, w: f(x.double(), w),
    "integers": lambda f, x, w: f(x.long().bool(), w.long().bool()),
    "complex numbers": lambda f, x, w: f(x.cfloat(), w.cfloat()),
}


def outcome(situation, name):
    torch.manual_seed(0)
    f, x_shape, w_shape = OPERATORS[name]
    try:
        SITUATIONS[situation](f, torch.randn(x_shape), torch.randn(w_shape))
    except AssertionError:
        raise
    except Exception as error:
        return type(error).__name__
    return "works"


def documented():
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_page_lists_these_situations():
    assert list(documented()) == list(SITUATIONS)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_comes_out_is_what_the_page_says(situation):
    assert [outcome(situation, name) for name in OPERATORS] == documented()[situation]


def test_nothing_is_refused_that_conv2d_takes_but_what_the_page_explains():
    explained = {"second derivatives", "complex numbers"}
    refused = {s for s, (conv2d, ours) in documented().items() if conv2d == "works" and ours != "works"}
    assert refused <= explained
