"""float16 with loss scaling, bfloat16, lower precision of teacher and frozen weights, accumulation, optimizers, EMA."""

import builtins
import math
import sys
import types

import pytest
import torch
from distilling import make_distiller
from tiny_pipelines import tiny_sd


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_reduced_precision_trains_float32_blocks(precision):
    exact = make_distiller().train_step()
    distiller = make_distiller(mixed_precision=precision)
    record = distiller.train_step()
    assert {parameter.dtype for parameter in distiller.parameters} == {torch.float32}
    assert {parameter.dtype for parameter in distiller.task.denoiser.parameters()} == {torch.float32}
    assert record.terms["noise"] == pytest.approx(exact.terms["noise"], rel=0.02)
    assert record.terms["noise"] != exact.terms["noise"]
    assert record.grad_norm == pytest.approx(exact.grad_norm, rel=0.1)  # unscaled before it is clipped


def test_float16_overflow_skips_the_step_and_halves_the_scale():
    distiller = make_distiller(mixed_precision="fp16", max_train_steps=3)
    scaler = distiller.precision.scaler
    distiller.train_step()
    scaler.update(2.0**60)
    before = [parameter.clone() for parameter in distiller.parameters]
    record = distiller.train_step()
    assert record.skipped
    assert math.isfinite(record.total)
    assert all(torch.equal(old, new) for old, new in zip(before, distiller.parameters, strict=True))
    assert scaler.get_scale() == 2.0**59
    scaler.update(2.0**10)
    assert not distiller.train_step().skipped
    assert distiller.skipped == 1


def test_only_the_teacher_in_bfloat16():
    exact, mixed = make_distiller(), make_distiller(teacher_precision="bf16")
    expected, actual = (d.losses(d.stream.batch(0)) for d in (exact, mixed))
    assert actual.noise.item() == expected.noise.item()  # the student against the true noise
    assert actual.kd.item() != expected.kd.item()
    assert actual.kd.item() == pytest.approx(expected.kd.item(), rel=0.05)


def test_frozen_weights_in_half_the_memory():
    whole = make_distiller()
    pipe = tiny_sd()
    half = make_distiller(pipe, mixed_precision="bf16", frozen_precision="bf16")
    trained = {id(parameter) for parameter in half.parameters}
    assert {p.dtype for p in pipe.unet.parameters() if id(p) not in trained} == {torch.bfloat16}
    assert {parameter.dtype for parameter in half.parameters} == {torch.float32}
    assert 2 * _frozen_bytes(half) == _frozen_bytes(whole)
    expected = whole.train_step()
    assert half.train_step().terms == pytest.approx(expected.terms, rel=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"frozen_precision": "bf16"},
        {"frozen_precision": "bf16", "mixed_precision": "bf16", "teacher_precision": "no"},
    ],
)
def test_frozen_weights_below_the_precision_of_the_passes_are_an_error(settings):
    with pytest.raises(ValueError, match="frozen_precision: expected 'no' or what the passes are computed in"):
        make_distiller(**settings)


def test_accumulated_gradients_are_those_of_the_larger_batch():
    whole = make_distiller(train_batch_size=4, max_train_steps=3)
    parts = make_distiller(train_batch_size=2, gradient_accumulation_steps=2, max_train_steps=3)
    for expected, actual in zip(whole.train(), parts.train(), strict=True):
        assert actual.terms == pytest.approx(expected.terms, rel=1e-5)
        assert actual.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    assert parts.identity.global_batch_size == whole.identity.global_batch_size == 4


def test_eight_bit_adam_without_bitsandbytes_is_an_error(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("bitsandbytes"):
            raise ImportError("No module named 'bitsandbytes'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match="use_8bit_adam: needs bitsandbytes: pip install bitsandbytes"):
        make_distiller(use_8bit_adam=True)


def test_eight_bit_adam_gets_the_settings(monkeypatch):
    class AdamW8bit(torch.optim.AdamW):
        """Stands in for bitsandbytes' optimizer, which takes the same arguments."""

    package, optimizers = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.optim")
    optimizers.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optimizers)
    distiller = make_distiller(use_8bit_adam=True, adam_beta2=0.9, max_train_steps=1)
    assert isinstance(distiller.optimizer.optimizer, AdamW8bit)
    assert distiller.optimizer.param_groups[0]["betas"] == (0.9, 0.9)
    assert not distiller.train_step().skipped


@pytest.mark.parametrize("offload", [False, True])
def test_the_moving_average_is_of_the_trained_values(offload):
    distiller = make_distiller(use_ema=True, offload_ema=offload, ema_decay=0.5, learning_rate=1e-2, lr_warmup_steps=0)
    expected = [parameter.detach().clone() for parameter in distiller.parameters]
    for step in range(4):
        distiller.train_step()
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0  # diffusers' warm-up
        expected = [
            decay * old + (1 - decay) * new.detach() for old, new in zip(expected, distiller.parameters, strict=True)
        ]
    torch.testing.assert_close(distiller.ema.shadow_params, expected)
    trained = [parameter.detach().clone() for parameter in distiller.parameters]
    with distiller.averaged():
        torch.testing.assert_close([p.detach() for p in distiller.parameters], distiller.ema.shadow_params)
    assert all(torch.equal(old, new) for old, new in zip(trained, distiller.parameters, strict=True))


def test_stage_one_learns_every_layer_and_stage_two_goes_on():
    settings = {"stage1_steps": 30, "stage1_repeats": 4, "stage1_learning_rate": 1e-2, "lr_scheduler": "constant"}
    distiller = make_distiller(max_train_steps=33, train_batch_size=4, **settings)
    records = distiller.train()
    local = [record.terms["local"] for record in records[:30]]
    assert all(record.terms.keys() == {"local"} for record in records[:30])
    assert all(record.terms.keys() == {"noise", "kd", "feat"} for record in records[30:])
    assert sum(local[-4:]) < 0.8 * sum(local[:4])
    assert [record.learning_rate for record in records[29:31]] == [1e-2, pytest.approx(3e-4)]
    assert [distiller.data_step(step) for step in (0, 7, 8, 29, 30, 31)] == [0, 7, 0, 5, 8, 9]


def test_fitted_projections_start_nearer_to_the_teacher():
    plain, fitted = make_distiller(stage1_steps=1), make_distiller(stage1_steps=1, fit_batches=4)
    assert fitted.train_step().terms["local"] < 0.9 * plain.train_step().terms["local"]


def _frozen_bytes(distiller) -> int:
    trained = {id(parameter) for parameter in distiller.parameters}
    frozen = [parameter for parameter in distiller.task.denoiser.parameters() if id(parameter) not in trained]
    return sum(parameter.nbytes for parameter in frozen)
