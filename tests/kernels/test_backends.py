"""Choosing a backend: by context, by environment, and the reasons given where one cannot run."""

import os
import subprocess
import sys

import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels import native
from deltaconv_kernels.backends import choose_backend
from deltaconv_kernels.testing import Shape, make_case


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


@pytest.mark.parametrize(
    ("capabilities", "reason"),
    [
        ([], "no CUDA device was found"),
        ([(9, 0), (7, 5)], "GPU 1 has compute capability 7.5, the kernels need 8.0"),
        ([(8, 0), (12, 0)], None),
    ],
    ids=str,
)
def test_which_gpus_the_cuda_kernels_need(monkeypatch, capabilities, reason):
    monkeypatch.setattr(native, "why_not_loaded", lambda backend: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    assert dk.backends()["cuda"].reason == reason


def run_python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_environment_variable_chooses():
    code = """
import torch
from deltaconv_kernels.backends import choose_backend
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
