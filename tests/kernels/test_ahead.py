"""How "auto" chooses between the cuda and triton backends on a GPU, without one."""

import json
from dataclasses import replace
from importlib import import_module

import compare_gpu_backends
import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels.testing import NAMED_SHAPES, Shape
from deltaconv_kernels.triton import ahead

backends = import_module("deltaconv_kernels.backends")  # the package has a function of this name
KEY = "sm90/k9-f1.2-bfloat16-4^10"


@pytest.fixture
def gpu(monkeypatch):
    """Tensors without memory stand for a GPU's; both backends can run; the table is the test's."""
    anywhere = {"device_types": None, "why_not_here": lambda: None}
    for name in ("cuda", "triton"):
        monkeypatch.setitem(backends._BACKENDS, name, replace(backends._BACKENDS[name], **anywhere))
    monkeypatch.setattr(ahead, "device_kind", lambda device: "sm90")
    entries = {}
    monkeypatch.setattr(ahead, "table", lambda: entries)
    caches = (backends._choose, ahead.is_ahead)
    for cached in caches:
        cached.cache_clear()
    yield entries
    for cached in caches:
        cached.cache_clear()


def choice(batch=2, height=64, width=64, inter=320, kernel_size=9, factors=(1, 2), dtype=torch.bfloat16):
    x = torch.empty(batch, height, width, inter, dtype=dtype, device="meta")
    weight = torch.empty(len(factors), kernel_size, kernel_size, inter, dtype=dtype, device="meta")
    return backends.choose_backend(x, weight, factors).name


def test_the_shipped_table_holds_ratios():
    for key, passes in json.loads(ahead.TABLE.read_text()).items():
        assert key.startswith("sm")
        assert passes
        assert set(passes) <= {"forward", "forward-backward"}
        assert all(0 < ratio < 100 for ratio in passes.values())


def test_without_a_measurement_it_is_cuda(gpu):
    assert choice() == "cuda"
    gpu["sm90/k9-f1.2-float32-4^10"] = {"forward": 2.0}
    assert choice() == "cuda"


def test_triton_where_it_was_ahead_whatever_the_batch(gpu):
    gpu[KEY] = {"forward": 1.2, "forward-backward": 1.1}
    assert {choice(batch) for batch in (0, 1, 2, 7)} == {"triton"}
    assert choice(height=60, width=68) == "triton"  # of the same class
    for other in ({"kernel_size": 7}, {"factors": (1,)}, {"dtype": torch.float32}, {"height": 256}, {"inter": 32}):
        assert choice(**other) == "cuda", other


def test_a_pass_that_loses_keeps_both_with_cuda(gpu):
    gpu[KEY] = {"forward": 1.2, "forward-backward": 0.98}
    assert choice() == "cuda"


def test_a_request_is_not_overruled(gpu):
    gpu[KEY] = {"forward": 1.2}
    with dk.use_backend("cuda"):
        assert choice() == "cuda"


def test_not_where_triton_cannot_run(gpu, monkeypatch):
    gpu[KEY] = {"forward": 1.2}
    absent = replace(backends._BACKENDS["triton"], why_not_here=lambda: "triton is not installed")
    monkeypatch.setitem(backends._BACKENDS, "triton", absent)
    assert choice() == "cuda"


def test_not_in_the_interpreter(gpu, monkeypatch):
    gpu[KEY] = {"forward": 1.2}
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choice() == "cuda"


def test_both_passes_ask_with_the_same_problem(gpu, monkeypatch):
    asked = []

    class Chosen(Exception):
        pass

    def choose(*problem):
        asked.append(problem)
        raise Chosen

    monkeypatch.setattr(backends, "choose_backend", choose)
    x, weight, grad = torch.zeros(1, 4, 4, 2), torch.zeros(1, 3, 3, 2), torch.zeros(1, 4, 4, 1)
    with pytest.raises(Chosen):
        backends._forward(x, weight, None, (1,))
    with pytest.raises(Chosen):
        backends._backward(grad, x, weight, None, (1,), "scaled", 1.0, (True, True, True))
    assert asked[0] == asked[1]


def record(shape, cuda, triton, which="forward", **more):
    times = {"cuda": {"cold": cuda, "graph": None}, "triton": {"cold": triton, "graph": None}}
    return {"kind": "operator", "shape": shape, "dtype": "bfloat16", "pass": which, "times": times, **more}


def test_the_table_is_drawn_from_a_check(monkeypatch, tmp_path):
    records = [
        record("sdxl-64-k9", 30.0, 20.0),
        record("sdxl-64-k9", 90.0, 100.0, "forward-backward"),
        record("sdxl-32-k9", 10.0, 10.0, kind="against compile"),
        {"kind": "operator", "shape": "sdxl-32-k9", "dtype": "bfloat16", "pass": "forward", "times": {"cuda": {}}},
    ]
    content = {"machine": {"gpus": [{"compute_capability": "9.0"}]}, "parts": {"operator": {"records": records}}}
    file = tmp_path / "check.json"
    file.write_text(json.dumps(content))
    monkeypatch.setattr(ahead, "TABLE", tmp_path / "ahead.json")
    ahead.TABLE.write_text('{"sm80/k3-f1-float32-4^9": {"forward": 0.5}}')
    monkeypatch.setattr("sys.argv", ["compare_gpu_backends", str(file)])
    ahead.table.cache_clear()
    compare_gpu_backends.main()
    ahead.table.cache_clear()
    assert ahead.table() == {
        "sm80/k3-f1-float32-4^9": {"forward": 0.5},
        KEY: {"forward": 1.5, "forward-backward": 0.9},
    }
    ahead.table.cache_clear()


def test_alike_problems_are_averaged():
    same = Shape(1, 32, 128, 320, 9)
    assert ahead.problem_class("sm90", 320, 64, 64, 9, (1, 2), torch.bfloat16) == KEY
    assert ahead.problem_class("sm90", 320, same.height, same.width, 9, same.factors, torch.bfloat16) == KEY
    records = [record("sdxl-64-k9", 20.0, 10.0), record("sdxl-64-k9", 10.0, 20.0)]
    content = {"machine": {"gpus": [{"compute_capability": "9.0"}]}, "parts": {"operator": {"records": records}}}
    assert compare_gpu_backends.measured([content]) == {KEY: {"forward": 1.0}}
    assert NAMED_SHAPES["sdxl-64-k9"].inter == 320
