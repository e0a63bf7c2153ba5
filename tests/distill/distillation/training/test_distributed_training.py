"""The trainer in two gloo processes, DDP and FSDP2 through Accelerate: as one process with the same global batch.

Losses of float32 sums in another order differ by rounding: 1e-5 relative for the losses, 1e-4 for gradient norms.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.distillation import StepRecord, TrainingInterrupted
from deltaconv_distill.distillation.run.checkpoint import load_state
from distilling import make_distiller
from shard_files import picture, write_shard
from tiny_pipelines import tiny_pixart, tiny_sd, tiny_sdxl

STEPS = 4
COMMON = {"max_train_steps": STEPS, "learning_rate": 1e-2, "use_ema": True}


def test_ddp_has_the_losses_of_one_process(tmp_path: Path) -> None:
    settings = {**COMMON, "stage1_steps": 2, "stage1_repeats": 2, "fit_batches": 2}
    run_twice(ddp_rank, tmp_path, settings)
    # the layer-local loss is relative to each batch's own targets, so here the batches have to be the same
    alone = make_distiller(gradient_accumulation_steps=2, **settings).train()
    assert_alike(read(tmp_path / "ranks"), alone)


def test_ddp_accumulates_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    run_twice(resumed_rank, tmp_path, {**COMMON, "gradient_accumulation_steps": 2, "checkpointing_steps": 2})
    whole, cut = (DeltaConvFusion.from_pretrained(tmp_path / name / "fusion").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    alone = make_distiller(train_batch_size=8, **COMMON).train()
    assert_alike(read(tmp_path / "whole"), alone)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_pixart], ids=["sd", "sdxl", "pixart"])
def test_fsdp_has_the_losses_of_one_process(tmp_path: Path, make: Callable) -> None:
    grids = {"validation_prompts": ("sun",), "validation_steps": STEPS, "validation_inference_steps": 1}
    run_twice(fsdp_rank, tmp_path, {**COMMON, **grids, "gradient_checkpointing": True}, make)
    assert (tmp_path / "ranks" / "validation" / f"step-{STEPS:06}.png").is_file()
    alone = make_distiller(make(), train_batch_size=4, **COMMON)
    assert_alike(read(tmp_path / "ranks"), alone.train())
    trained = DeltaConvFusion.from_pretrained(tmp_path / "ranks" / "fusion").state_dict()
    torch.testing.assert_close(trained, dict(alone.fusion.state_dict()), rtol=1e-3, atol=1e-5)


def test_a_checkpoint_of_two_processes_goes_on_in_one(tmp_path: Path) -> None:
    run_twice(fsdp_rank, tmp_path, {**COMMON, "max_train_steps": 2}, tiny_sd)
    checkpoint = str(tmp_path / "ranks" / "checkpoint-2")
    with pytest.raises(RuntimeError, match="train_batch_size 2 -> 1, global_batch_size 4 -> 1"):
        make_distiller(train_batch_size=1, resume_from_checkpoint=checkpoint, **COMMON)
    resumed = make_distiller(
        train_batch_size=2, gradient_accumulation_steps=2, resume_from_checkpoint=checkpoint, **COMMON
    )
    assert resumed.step == 2
    assert_alike(resumed.train(), make_distiller(train_batch_size=4, **COMMON).train()[2:])


def test_accelerate_launch_deals_shards_out(tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path / "model")
    for shard in range(3):
        write_shard(tmp_path / f"{shard}.tar", {f"{shard}-{index}": picture(4 * shard + index) for index in range(4)})
    # --multi_gpu starts many processes; the variable below keeps each of them on the CPU
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--main_process_port", "0", "--mixed_precision", "bf16", "--dynamo_backend", "no"]
    command = [
        "-m", "deltaconv_distill.cli", "distill", "--pretrained_teacher_model", str(tmp_path / "model"),
        "--train_shards", f"{tmp_path}/{{0..2}}.tar", "--resolution", "16", "--kernel_size", "3",
        "--train_batch_size", "2", "--max_train_steps", "2", "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run([sys.executable, *launch, *command], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("fusion: ") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    state = load_state(tmp_path / "run" / "checkpoint-2")
    assert state["config"]["mixed_precision"] == "bf16"
    assert state["global_batch_size"] == 4
    assert [process["data"]["taken"] for process in state["processes"]] == [2, 2]


def test_a_signal_to_one_of_two_processes_stops_both_after_a_checkpoint(tmp_path: Path) -> None:
    run_twice(interrupted_rank, tmp_path, COMMON)
    for rank in (0, 1):
        told = (tmp_path / f"rank-{rank}").read_text()
        assert told.startswith("143: SIGTERM after step 2: saved ")
    assert [path.name for path in (tmp_path / "ranks").glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (tmp_path / "ranks" / "fusion").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"stage1_steps": 1}, "stage1_steps, fit_batches: expected 0 under FSDP"), ({"mixed_precision": "fp16"}, "bf16")],
)
def test_what_fsdp_cannot_do_is_refused(settings, message, monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match=message):
        make_distiller(accelerator=accelerator, **settings)


def ddp_rank(folder: Path, settings: dict, make: Callable) -> None:
    make_distiller(make(), output_dir=str(folder / "ranks"), **settings).train()


def resumed_rank(folder: Path, settings: dict, make: Callable) -> None:
    make_distiller(make(), output_dir=str(folder / "whole"), **settings).train()
    cut = make_distiller(make(), output_dir=str(folder / "cut"), **settings)
    for _ in range(2):
        cut.train_step()
    cut.save_checkpoint()
    cut.train_step()  # lost
    make_distiller(make(), output_dir=str(folder / "cut"), resume_from_checkpoint="latest", **settings).train()


def interrupted_rank(folder: Path, settings: dict, make: Callable) -> None:
    rank = int(os.environ["RANK"])

    def signal_the_second(record: StepRecord) -> None:
        if rank == 1 and record.step == 2:
            signal.raise_signal(signal.SIGTERM)

    distiller = make_distiller(make(), output_dir=str(folder / "ranks"), **settings)
    with pytest.raises(TrainingInterrupted) as info:
        distiller.train(on_step=signal_the_second)
    (folder / f"rank-{rank}").write_text(f"{info.value.exit_code}: {info.value}")


def fsdp_rank(folder: Path, settings: dict, make: Callable) -> None:
    make_distiller(make(), accelerator=fsdp_accelerator(), output_dir=str(folder / "ranks"), **settings).train()


def fsdp_accelerator() -> Accelerator:
    """What `accelerate launch --use_fsdp --fsdp_version 2` makes on GPUs; on CPUs Accelerate turns to DDP instead."""
    accelerator = Accelerator(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["BasicTransformerBlock"],
        cpu_ram_efficient_loading=False,
    )
    return accelerator


def run_twice(rank_function: Callable, folder: Path, settings: dict, make: Callable = tiny_sd) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # forked: importing diffusers twice more would take longer than the test
    mp.start_processes(on_rank, (rank_function, folder, settings, make, port), nprocs=2, start_method="fork")


def on_rank(rank: int, rank_function: Callable, folder: Path, settings: dict, make: Callable, port: int) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    os.environ.update(zip(names, map(str, (rank, rank, 2, 2, "127.0.0.1", port, 1)), strict=True))
    for state in (AcceleratorState, PartialState, GradientState):  # of the process that this one is forked from
        state._reset_state()
    torch.set_num_threads(1)
    rank_function(folder, settings, make)
    dist.destroy_process_group()


def read(folder: Path) -> list[StepRecord]:
    from deltaconv_distill.distillation.run.records import StepLog

    log = StepLog(folder)
    log.rewind(STEPS)
    return log.records


def assert_alike(actual: list[StepRecord], expected: list[StepRecord]) -> None:
    actual = actual[-len(expected) :]
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.terms == pytest.approx(theirs.terms, rel=1e-5)
        assert ours.total == pytest.approx(theirs.total, rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
        assert ours.learning_rate == theirs.learning_rate
