"""Choosing a backend: by context, by environment, and the reasons given where one cannot run."""

import importlib
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels.backends import AUTO, choose_backend, why_not_in_use
from deltaconv_kernels.testing import Shape, make_case

backends = importlib.import_module("deltaconv_kernels.backends")  # the package's own attribute is the function


def test_every_backend_is_listed_with_a_reason_unless_it_runs():
    statuses = dk.backends()
    assert {"cuda", "cpu", "reference"} <= set(statuses)
    for status in statuses.values():
        assert status.available == (status.reason is None)


def test_the_native_cpu_backend_is_what_auto_takes_on_a_cpu():
    assert dk.backends()["cpu"].available, dk.backends()["cpu"].reason
    assert choose_backend(torch.zeros(1)).name == "cpu"


def test_use_backend_nests_and_restores():
    x = torch.zeros(1)
    with dk.use_backend("reference"):
        assert choose_backend(x).name == "reference"
        with dk.use_backend("cpu"):
            assert choose_backend(x).name == "cpu"
        assert choose_backend(x).name == "reference"
    assert choose_backend(x).name == "cpu"


def test_use_backend_restores_after_an_error():
    with pytest.raises(KeyError), dk.use_backend("reference"):
        raise KeyError
    assert choose_backend(torch.zeros(1)).name == "cpu"


def test_threads_may_end_their_choices_in_any_order():
    """The last choice that is still wanted is in force, and in the end the first."""
    x = torch.zeros(1)
    first, second, third = (dk.use_backend(name) for name in ("reference", "cpu", "reference"))
    first.__enter__()
    second.__enter__()
    third.__enter__()
    first.__exit__(None, None, None)  # the first to come is the first to go
    assert choose_backend(x).name == "reference"
    third.__exit__(None, None, None)
    assert why_not_in_use("reference", x.device, x.dtype) == "the backend in use is 'cpu'"
    second.__exit__(None, None, None)
    assert backends._requested == AUTO


def test_choices_of_many_threads_leave_none_behind():
    def choose(name):
        for _ in range(200):
            with dk.use_backend(name):
                pass

    threads = [threading.Thread(target=choose, args=(name,)) for name in ("reference", "cpu", "auto", "cpu")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backends._requested == AUTO


def test_unknown_backend():
    with (
        pytest.raises(ValueError, match=r"use_backend: expected one of \('auto', .*\), got 'fast'"),
        dk.use_backend("fast"),
    ):
        pass


def test_a_requested_backend_never_falls_back():
    case = make_case(Shape(1, 4, 4, 4, 3))
    with (
        dk.use_backend("cuda"),
        pytest.raises(RuntimeError, match="'cuda' was requested but cannot run: it runs on cuda, x is on cpu"),
    ):
        dk.pyramid(*case.arguments)


@pytest.mark.skipif(torch.version.cuda is not None, reason="asks why CUDA is missing on a torch without CUDA")
def test_why_cuda_cannot_run_on_a_cpu_torch():
    assert "built without CUDA" in dk.backends()["cuda"].reason


OLD = "GPU 1: compute capability 7.5 cannot run the library, which was built for 8.0 9.0+PTX: no kernel image"


@pytest.fixture
def gpus(monkeypatch):
    """As if the CUDA library had been loaded beside GPUs with these reasons not to run on them."""

    def pretend(*reasons):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(reasons))
        asked = {"why_not_here": lambda: None, "why_not_on": lambda index: reasons[index]}
        monkeypatch.setitem(backends._BACKENDS, "cuda", replace(backends._BACKENDS["cuda"], **asked))

    caches = (backends._choose, backends._warn_without_cuda)
    for cached in caches:
        cached.cache_clear()
    yield pretend
    for cached in caches:
        cached.cache_clear()


def test_one_old_gpu_does_not_take_the_backend_from_the_others(gpus):
    gpus(None, OLD)
    assert dk.backends()["cuda"] == dk.BackendStatus(True, OLD)
    assert backends.why_not_in_use("cuda", torch.device("cuda", 0), torch.float16) is None
    assert backends.why_not_in_use("cuda", torch.device("cuda", 1), torch.float16) == OLD
    assert backends._choose("auto", torch.device("cuda", 0), torch.float16).name == "cuda"
    with pytest.raises(RuntimeError, match="'cuda' was requested but cannot run: GPU 1"):
        backends._choose("cuda", torch.device("cuda", 1), torch.float16)


def test_no_gpu_that_it_can_run_on(gpus):
    gpus(OLD)
    assert dk.backends()["cuda"] == dk.BackendStatus(False, OLD)


def test_auto_without_cuda_warns_once_and_says_what_computes(gpus, monkeypatch):
    gpus(None, OLD)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    old = torch.device("cuda", 1)
    instead = next(name for name in ("triton", "reference") if backends.why_not_on(name, old) is None)
    with pytest.warns(
        RuntimeWarning, match=f"cuda backend cannot run, '{instead}' computes instead: GPU 1: "
    ) as caught:
        chosen = [backends._choose("auto", old, dtype).name for dtype in (torch.float16, torch.float32, torch.float64)]
    assert len(caught) == 1
    assert chosen == [instead, instead, "reference"]


def test_auto_says_nothing_of_what_the_cuda_backend_does_not_promise(gpus, monkeypatch, recwarn):
    gpus(None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert backends._choose("auto", torch.device("cuda", 0), torch.float64).name == "reference"
    assert backends._choose("auto", torch.device("cuda", 0), torch.float16).name == "cuda"
    assert not recwarn


def run_python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_environment_variable_chooses():
    code = """
import torch
from deltaconv_kernels.backends import AUTO, choose_backend, why_not_in_use
print(choose_backend(torch.zeros(1)).name)
"""
    result = run_python(code, **{**os.environ, "DELTACONV_BACKEND": "reference"})
    assert result.stdout.split() == ["reference"], result.stderr


def test_environment_variable_is_checked():
    result = run_python("import deltaconv_kernels", **{**os.environ, "DELTACONV_BACKEND": "quick"})
    assert result.returncode != 0
    assert "DELTACONV_BACKEND: expected one of" in result.stderr


def test_import_needs_torch_alone():
    code = """
import sys
for name in ("triton", "diffusers", "transformers", "accelerate", "numpy", "matplotlib", "PIL"):
    sys.modules[name] = None  # importing it raises ImportError
import torch, deltaconv_kernels as dk
x = torch.randn(1, 4, 4, 16)
dk.DeltaConvBlock(16, 3)(x).sum().backward()
print("fine")
"""
    result = run_python(code, **os.environ)
    assert result.stdout.split() == ["fine"], result.stderr
