"""Runs that are killed with SIGKILL, at any moment and while they write, go on to the same bits."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.distillation.run import checkpoint
from distilling import make_distiller

STEPS = 12
SETTINGS = {
    "max_train_steps": STEPS,
    "checkpointing_steps": 1,
    "checkpoints_total_limit": 2,
    "use_ema": True,
    "learning_rate": 1e-2,
    "lr_scheduler": "cosine",
    "stage1_steps": 5,
    "stage1_repeats": 2,
}
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    make_distiller(output_dir=str(folder), **SETTINGS).train()
    return result_of(folder)


def test_killed_at_any_moment(tmp_path, expected):
    moments = random.Random(0)
    kills = 0
    while True:
        process = FORK.Process(target=run, args=(tmp_path,))
        process.start()
        process.join(timeout=moments.uniform(0.1, 0.45) if kills < 6 else None)
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert process.exitcode == 0
    assert kills >= 3
    assert_same_tensors(result_of(tmp_path), expected)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == STEPS


@pytest.mark.parametrize("where", ["half-written", "before-rename", "while-pruning"])
def test_killed_while_a_checkpoint_is_written(tmp_path, expected, where):
    process = FORK.Process(target=run_and_die, args=(tmp_path, where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = make_distiller(output_dir=str(tmp_path), resume_from_checkpoint="latest", **SETTINGS)
    assert resumed.step == (7 if where == "while-pruning" else 6)
    resumed.train()
    assert_same_tensors(result_of(tmp_path), expected)
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == []


def run(folder) -> None:
    torch.set_num_threads(1)
    distiller = make_distiller(output_dir=str(folder), resume_from_checkpoint="latest", **SETTINGS)
    distiller.train(on_step=lambda record: time.sleep(0.05))  # so that one life is too short for all steps


def run_and_die(folder, where: str) -> None:
    """The seventh checkpoint is the last thing that this process does."""
    torch.set_num_threads(1)
    distiller = make_distiller(output_dir=str(folder), **SETTINGS)
    for _ in range(6):
        distiller.train_step()
        distiller.save_checkpoint()
    distiller.train_step()
    if where == "half-written":
        checkpoint.torch.save = write_half_and_die
    elif where == "before-rename":
        checkpoint.atomic_directory.__wrapped__.__globals__["_take_place"] = die
    else:
        checkpoint.shutil.rmtree = remove_partial_folders_only
    distiller.save_checkpoint()


def write_half_and_die(state, path) -> None:
    path.write_bytes(b"half of a checkpoint")
    die()


def remove_partial_folders_only(path, **options) -> None:
    if Path(path).name.startswith("checkpoint-"):
        die()


def die(*args, **options) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def result_of(folder) -> dict[str, torch.Tensor]:
    return DeltaConvFusion.from_pretrained(folder / "fusion").state_dict()


def assert_same_tensors(left, right) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
