"""The training loop: what it changes, what it leaves alone, and what it does about numbers that are not finite."""

import math

import pytest
import torch
from deltaconv_distill.distillation import DenoisingTask, DistillConfig, TrainingDiverged
from diffusers import StableDiffusionPipeline
from distilling import make_distiller
from tiny_pipelines import tiny_sd


def test_training_brings_the_student_to_the_teacher():
    # w_noise = 0: this teacher has random weights, and true noise would lead away from it
    records = make_distiller(max_train_steps=40, learning_rate=5e-3, lr_scheduler="constant", w_noise=0).train()
    assert [record.step for record in records] == list(range(1, 41))
    first, last = (sum(record.terms["kd"] for record in part) for part in (records[:5], records[-5:]))
    assert last < 0.5 * first


def test_only_the_blocks_change_and_detach_gives_the_teacher_back():
    pipe = tiny_sd()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    distiller = make_distiller(pipe)
    blocks = [parameter.clone() for parameter in distiller.parameters]
    distiller.train()
    distiller.fusion.detach()
    after = pipe.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(torch.equal(old, new) for old, new in zip(blocks, distiller.parameters, strict=True))


def test_teacher_and_student_share_one_copy_of_the_weights():
    pipe = tiny_sd()
    alone = _bytes(pipe.unet)
    distiller = make_distiller(pipe)
    assert _bytes(pipe.unet) == alone + _bytes(distiller.fusion)
    assert distiller.task.denoiser is pipe.unet
    distiller.train_step()
    states = len(distiller.optimizer.state)
    assert states == len(list(distiller.fusion.parameters()))


def test_a_step_that_is_not_finite_is_skipped_and_counted(monkeypatch):
    distiller = make_distiller(max_train_steps=4)
    healthy = distiller.stream.batch
    monkeypatch.setattr(distiller.stream, "batch", lambda p: _poison(healthy(p)) if p == 2 else healthy(p))
    distiller.train_step()
    before = [parameter.clone() for parameter in distiller.parameters]
    record = distiller.train_step()
    assert record.skipped
    assert math.isnan(record.total)
    assert all(torch.equal(old, new) for old, new in zip(before, distiller.parameters, strict=True))
    records = distiller.train()
    assert [record.skipped for record in records] == [False, True, False, False]
    assert distiller.skipped == 1


def test_too_many_skipped_steps_in_a_row_end_the_run(monkeypatch):
    distiller = make_distiller(max_train_steps=50, max_skipped_steps=3)
    healthy = distiller.stream.batch
    monkeypatch.setattr(distiller.stream, "batch", lambda p: _poison(healthy(p)))
    with pytest.raises(TrainingDiverged, match=r"3 steps in a row .* up to step 3.*learning_rate"):
        distiller.train()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_target_is_what_the_scheduler_was_trained_to_predict(prediction_type):
    distiller = make_distiller(_with_prediction_type(prediction_type))
    batch = distiller.stream.batch(0)
    signal = distiller.task.noising.schedule.alphas_cumprod[batch.timesteps].sqrt()[:, None, None, None]
    noise = (1 - signal**2).sqrt()
    expected = batch.noise if prediction_type == "epsilon" else signal * batch.noise - noise * batch.latents
    torch.testing.assert_close(distiller.task.target(batch), expected)


def test_another_prediction_type_is_an_error():
    with pytest.raises(ValueError, match=r"pipe.scheduler: .*got 'sample'"):
        DenoisingTask(_with_prediction_type("sample"))


def test_blocks_in_half_precision_are_an_error():
    with pytest.raises(ValueError, match=r"fusion: expected blocks in torch.float32, got torch.bfloat16"):
        make_distiller(tiny_sd().to(torch.bfloat16))


def test_the_result_is_the_moving_average():
    distiller = make_distiller(use_ema=True, learning_rate=1e-2, max_train_steps=4)
    for _ in range(4):
        distiller.train_step()
    trained = [parameter.clone() for parameter in distiller.parameters]
    distiller.train()
    averaged = distiller.ema.shadow_params
    assert all(torch.equal(old, new) for old, new in zip(averaged, distiller.parameters, strict=True))
    assert not all(torch.equal(old, new) for old, new in zip(trained, distiller.parameters, strict=True))


def test_bfloat16_autocast_trains_float32_blocks_to_nearly_the_same_loss():
    exact = make_distiller().train_step()
    mixed = make_distiller(mixed_precision="bf16")
    record = mixed.train_step()
    assert {parameter.dtype for parameter in mixed.parameters} == {torch.float32}
    assert record.terms["noise"] == pytest.approx(exact.terms["noise"], rel=0.02)
    assert record.terms["noise"] != exact.terms["noise"]


def test_time_ends_a_run():
    records = make_distiller(max_train_steps=100_000, max_train_seconds=0.5).train()
    assert 1 <= len(records) < 1000


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("train_batch_size", 0, "train_batch_size: expected at least 1, got 0"),
        ("learning_rate", -1.0, "learning_rate: expected a positive number, got -1.0"),
        ("adam_beta2", 1.0, r"adam_beta2: expected a number in \[0, 1\), got 1.0"),
        ("proportion_empty_prompts", 1.5, r"proportion_empty_prompts: expected a number in \[0, 1\], got 1.5"),
        ("mixed_precision", "fp8", "mixed_precision: expected one of .* got 'fp8'"),
        ("lr_scheduler", "stairs", "lr_scheduler: expected one of .* got 'stairs'"),
        ("resume_from_checkpoint", "latest", "resume_from_checkpoint: expected output_dir"),
    ],
)
def test_bad_settings_are_named(setting, value, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**{setting: value})


def test_all_weights_zero_is_an_error():
    with pytest.raises(ValueError, match="w_noise, w_kd, w_feat: expected at least one above 0"):
        DistillConfig(w_noise=0, w_kd=0, w_feat=0)


def _with_prediction_type(prediction_type: str) -> StableDiffusionPipeline:
    pipe = tiny_sd()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=prediction_type)
    return pipe


def _bytes(module: torch.nn.Module) -> int:
    storages = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes()
        for parameter in module.parameters()
    }
    return sum(storages.values())


def _poison(batch):
    batch.latents.fill_(math.nan)
    return batch
