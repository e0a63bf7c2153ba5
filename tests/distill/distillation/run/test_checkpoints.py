"""Checkpoints: exact resume, damage, full disks, clean-up."""

import errno
import logging
import random

import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.distillation import CachedExamples, CheckpointError, DistillConfig, Distiller, PipelineEncoder
from deltaconv_distill.distillation.run import checkpoint
from distilling import RandomImages, make_distiller
from tiny_pipelines import tiny_sd


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_ema": True},
        {"use_ema": True, "offload_ema": True, "mixed_precision": "fp16", "gradient_accumulation_steps": 2},
        {"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2, "w_kd_schedule": "0:0,6:1", "snr_gamma": 5.0},
    ],
    ids=["plain", "ema", "fp16", "schedules"],
)
def test_a_resumed_run_has_the_same_bits_as_an_uninterrupted_one(tmp_path, options):
    settings = {"checkpointing_steps": 3, "learning_rate": 1e-2, **options}
    whole = make_distiller(output_dir=str(tmp_path / "whole"), max_train_steps=7, **settings)
    expected = whole.train()

    interrupted = make_distiller(output_dir=str(tmp_path / "cut"), max_train_steps=7, **settings)
    for _ in range(3):
        interrupted.train_step()
    interrupted.save_checkpoint()
    interrupted.train_step()  # lost with the interruption
    torch.manual_seed(99)
    resumed = make_distiller(
        output_dir=str(tmp_path / "cut"), max_train_steps=7, resume_from_checkpoint="latest", **settings
    )
    assert resumed.step == 3
    records = resumed.train()

    assert [_losses(record) for record in records] == [_losses(record) for record in expected]
    _assert_same_tensors(whole.fusion.state_dict(), resumed.fusion.state_dict())
    _assert_same_tensors(_moments(whole), _moments(resumed))
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 7


@pytest.mark.parametrize("dtype", ["no", "bf16"])
def test_a_run_goes_on_with_its_own_teacher_only(tmp_path, dtype):
    settings = {"output_dir": str(tmp_path), "mixed_precision": dtype, "frozen_precision": dtype, "max_train_steps": 1}
    make_distiller(**settings).train()
    settings |= {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    with pytest.raises(CheckpointError, match=r"checkpoint-1: was written with another teacher: of \d+ weights"):
        make_distiller(tiny_sd(seed=1), **settings)
    assert make_distiller(tiny_sd(seed=0), **settings).step == 1


def test_blocks_that_are_trained_for_another_teacher_remember_it(tmp_path, caplog):
    DeltaConvFusion.convert(tiny_sd(seed=0), kernel_size=3).save_pretrained(tmp_path / "first")
    pipe = tiny_sd(seed=1)
    fusion = DeltaConvFusion.from_pretrained(tmp_path / "first").attach(pipe)
    assert "with other weights" in caplog.text
    examples = CachedExamples(RandomImages(), PipelineEncoder(pipe))
    Distiller(pipe, fusion, examples, DistillConfig(max_train_steps=1, output_dir=str(tmp_path / "run"))).train()
    caplog.clear()
    DeltaConvFusion.from_pretrained(tmp_path / "run" / "fusion").attach(tiny_sd(seed=1))
    assert "with other weights" not in caplog.text
    DeltaConvFusion.from_pretrained(tmp_path / "run" / "fusion").attach(tiny_sd(seed=0))
    assert "with other weights" in caplog.text


def test_the_loss_scale_and_every_generator_are_restored(tmp_path):
    settings = {"output_dir": str(tmp_path), "mixed_precision": "fp16"}
    distiller = make_distiller(**settings)
    distiller.train_step()
    distiller.precision.scaler.update(1024.0)
    distiller.save_checkpoint()
    expected = _draws()
    _draws()
    resumed = make_distiller(resume_from_checkpoint="latest", **settings)
    assert _draws() == expected
    assert resumed.precision.scaler.get_scale() == 1024.0


def test_the_side_car_of_a_checkpoint_is_the_trained_fusion(tmp_path):
    distiller = make_distiller(output_dir=str(tmp_path), max_train_steps=2)
    distiller.train()
    for folder in (tmp_path / "fusion", tmp_path / "checkpoint-2" / "fusion"):
        _assert_same_tensors(DeltaConvFusion.from_pretrained(folder).state_dict(), distiller.fusion.state_dict())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing-file", "no-manifest", "bad-manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, caplog, damage):
    _two_checkpoints(tmp_path)
    _damage(tmp_path / "checkpoint-4", damage)
    with caplog.at_level(logging.WARNING):
        resumed = make_distiller(output_dir=str(tmp_path), checkpointing_steps=2, resume_from_checkpoint="latest")
    assert resumed.step == 2
    assert "checkpoint-4" in caplog.text


def test_asking_for_a_damaged_checkpoint_is_an_error_that_names_a_usable_one(tmp_path):
    _two_checkpoints(tmp_path)
    _damage(tmp_path / "checkpoint-4", "truncated")
    with pytest.raises(
        CheckpointError, match=r"checkpoint-4: trainer_state.pt is damaged.*usable checkpoint is .*checkpoint-2"
    ):
        make_distiller(checkpointing_steps=2, resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_nothing_but_damage_is_an_error(tmp_path):
    _two_checkpoints(tmp_path)
    for name in ("checkpoint-2", "checkpoint-4"):
        _damage(tmp_path / name, "missing-file")
    with pytest.raises(CheckpointError, match="damaged, or another run's: checkpoint-4, checkpoint-2"):
        make_distiller(output_dir=str(tmp_path), checkpointing_steps=2, resume_from_checkpoint="latest")


def test_latest_without_any_checkpoint_starts_anew(tmp_path):
    assert make_distiller(output_dir=str(tmp_path), resume_from_checkpoint="latest").step == 0


def test_a_full_disk_is_an_error_and_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    distiller = make_distiller(output_dir=str(tmp_path), checkpointing_steps=2)
    for _ in range(2):
        distiller.train_step()
    distiller.save_checkpoint()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    distiller.train_step()
    with pytest.raises(
        CheckpointError, match=r"checkpoint-3 .*No space left on device.*usable checkpoint is .*checkpoint-2"
    ):
        distiller.save_checkpoint()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "metrics.jsonl", "run.json"]


def test_old_checkpoints_and_leftovers_of_killed_runs_go(tmp_path):
    leftover = tmp_path / ".checkpoint-9.1.partial"
    leftover.mkdir(parents=True)
    distiller = make_distiller(output_dir=str(tmp_path), checkpointing_steps=1, checkpoints_total_limit=2)
    distiller.train()
    assert not leftover.exists()
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-5"]


def test_other_settings_on_resume_are_an_error_that_names_them(tmp_path):
    _two_checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings: seed 0 -> 5, learning_rate 0.0003 -> 0.1"):
        make_distiller(output_dir=str(tmp_path), resume_from_checkpoint="latest", learning_rate=0.1, seed=5)


def test_other_captions_on_resume_are_an_error(tmp_path):
    _two_checkpoints(tmp_path)
    pipe, images = tiny_sd(), RandomImages()
    images.captions = ("green cat", *images.captions[1:])
    with pytest.raises(CheckpointError, match=r"other settings: captions [0-9a-f]+ -> [0-9a-f]+"):
        make_distiller(
            pipe, CachedExamples(images, PipelineEncoder(pipe)), output_dir=str(tmp_path), checkpointing_steps=2,
            resume_from_checkpoint="latest",
        )  # fmt: skip


def test_more_steps_on_resume_are_fine(tmp_path):
    _two_checkpoints(tmp_path)
    resumed = make_distiller(output_dir=str(tmp_path), resume_from_checkpoint="latest", max_train_steps=5)
    assert len(resumed.train()) == 5


def _two_checkpoints(folder) -> None:
    make_distiller(output_dir=str(folder), max_train_steps=4, checkpointing_steps=2).train()


def _damage(path, kind: str) -> None:
    state = path / "trainer_state.pt"
    content = state.read_bytes()
    if kind == "truncated":
        state.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        middle = len(content) // 2
        state.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif kind == "missing-file":
        state.unlink()
    elif kind == "no-manifest":
        (path / "manifest.json").unlink()
    else:
        (path / "manifest.json").write_text('{"step": 4, "files"')


def _draws() -> tuple[float, float, float]:
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002


def _losses(record) -> tuple:
    return record.terms, record.total, record.grad_norm, record.learning_rate


def _moments(distiller) -> dict[str, torch.Tensor]:
    state = distiller.optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, moments in state.items() for name, value in moments.items()}


def _assert_same_tensors(left, right) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
