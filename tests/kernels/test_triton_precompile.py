"""Kernels compiled before they are launched: the same ones, several at once, and nothing allocated."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from compile_triton import launches_of
from triton.runtime.jit import JITFunction

import deltaconv_kernels.triton as backend
from deltaconv_kernels.testing import Shape, make_case
from deltaconv_kernels.triton import launch
from deltaconv_kernels.triton.collected import collecting
from deltaconv_kernels.triton.configurations import Key, configuration

PROBLEM = backend.PyramidProblem(16, 16, 32, 3, (1, 2), torch.float16)


@pytest.fixture
def runs(monkeypatch):
    """What Triton is asked for, with the thread that asks: nothing is compiled or launched."""
    asked = []

    def run(kernel, *arguments, grid, warmup, **keywords):
        names = [parameter.name for parameter in kernel.params]
        by_name = dict(zip(names, arguments, strict=False)) | keywords
        asked.append((kernel.__name__, warmup, threading.get_ident(), by_name))

    def tiles_for(C, H, W, K, dtype, device):
        return configuration(Key(C, H, W, K, dtype, "sm90"))

    monkeypatch.setattr(JITFunction, "run", run)
    monkeypatch.setattr(launch, "tiles_for", tiles_for)
    monkeypatch.setattr(backend, "why_not_here", lambda: None)
    launch.compile_backward.cache_clear()
    return asked


def test_precompile_asks_for_what_the_calls_launch(runs):
    backend.precompile([PROBLEM], gradients=True, device="cpu")
    ahead = {name: by_name for name, _, _, by_name in runs}
    assert all(warmup for _, warmup, _, _ in runs)
    assert len(runs) == len(ahead) == 7
    runs.clear()
    case = make_case(Shape(2, 16, 16, 32, 3, (1, 2)), torch.float16)
    launch.pyramid_forward(*case.arguments)
    launch.pyramid_backward(*case.backward_arguments, (True, True, True))
    launched = {name: by_name for name, warmup, _, by_name in runs if not warmup}
    assert launched.keys() == ahead.keys()
    for name, by_name in launched.items():
        assert by_name.keys() == ahead[name].keys()
        for argument, value in by_name.items():
            before = ahead[name][argument]
            if isinstance(value, torch.Tensor):
                assert value.dtype == before.dtype, (name, argument)
                assert before.is_meta, (name, argument)
            elif argument not in ("B", "gate_scale", "P"):  # not compiled for, or by their type alone
                assert value == before, (name, argument)


def test_a_kernel_of_several_problems_is_asked_for_once(runs):
    backend.precompile([PROBLEM, PROBLEM._replace(height=64, width=2), PROBLEM._replace(height=17)], device="cpu")
    assert [by_name["EVEN"] for *_, by_name in runs] == [(True, True), (True, False)]


def test_the_first_gradients_are_compiled_together(runs):
    case = make_case(Shape(2, 16, 16, 32, 3, (1, 2)), torch.float16)
    launch.pyramid_backward(*case.backward_arguments, (True, True, True))
    order = [warmup for _, warmup, _, _ in runs]
    assert order == [True] * 6 + [False] * 6
    here = threading.get_ident()
    assert all((thread == here) != warmup for _, warmup, thread, _ in runs)
    launch.pyramid_backward(*case.backward_arguments, (True, True, True))
    assert len(runs) == 18, "a second call compiles nothing"


def test_a_failed_compilation_is_raised_and_tried_again(runs):
    case = make_case(Shape(1, 8, 8, 32, 3, (1,)), torch.float16)
    for _ in range(2):
        with (
            mock.patch.object(JITFunction, "run", side_effect=RuntimeError("ptxas is missing")),
            pytest.raises(RuntimeError, match="ptxas is missing"),
        ):
            launch.pyramid_backward(*case.backward_arguments, (True, True, True))
    assert collecting() is None
    launch.pyramid_backward(*case.backward_arguments, (True, True, True))
    assert [warmup for _, warmup, _, _ in runs].count(False) == 4


@pytest.mark.parametrize(
    ("problem", "keywords", "message"),
    [
        (PROBLEM._replace(channels=7), {}, "weight: .*even|x: .*even"),
        (PROBLEM._replace(factors=(1, 32)), {}, "factors: .*got"),
        (PROBLEM._replace(gate="open"), {}, "gate: .*'open'"),
        (PROBLEM, {"threads": 0}, "threads: expected at least 1, got 0"),
    ],
)
def test_what_is_refused(runs, problem, keywords, message):
    with pytest.raises(ValueError, match=message):
        backend.precompile([problem], device="cpu", **keywords)
    assert collecting() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks why it cannot compile where no GPU is")
def test_without_a_gpu():
    with pytest.raises(RuntimeError, match="the triton backend cannot compile here: no CUDA or ROCm device"):
        backend.precompile([PROBLEM])


def test_calls_find_what_was_compiled():
    """By Triton's own look-up, for a GPU that is not here; where 2 no longer divides H, five kernels compile anew."""
    script = Path(__file__).with_name("triton_precompiled.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # the tools' folders
    printed = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    even, other_even, ragged = (line.split() for line in printed.stdout.splitlines())
    assert even == ["1", "4", "6"]
    assert other_even == ["3", "8", "2"]
    assert {name for name in ragged[3:]} == {
        f"pyramid_{name}_kernel"
        for name in ("forward", "backward_pool", "backward_gate", "backward_pooled_input", "backward_input")
    }


def test_the_tools_see_each_launch_once():
    assert len(launches_of(Shape(1, 16, 16, 32, 3, (1, 2)), torch.float16, 90)) == 7
