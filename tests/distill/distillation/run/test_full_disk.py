"""A disk that fills up: where files cannot grow (RLIMIT_FSIZE), a run ends with the newest checkpoint named."""

import multiprocessing
import os
import resource
import signal
import sys

import pytest
from deltaconv_distill.cli import main
from deltaconv_distill.distillation import CheckpointError
from deltaconv_distill.distillation.run.checkpoint import find_checkpoint
from distilling import make_distiller

FORK = multiprocessing.get_context("fork")
UNLIMITED = resource.RLIM_INFINITY


def fill_disk(bytes_left: int = 0) -> None:
    """From here on no file of this process grows beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, UNLIMITED))


def in_child(function, *arguments) -> str:
    """What the function returns in a process of its own, whose disk may fill up."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    process.join()
    assert receiver.poll()
    return receiver.recv()


def train_until_full(folder, bytes_left: int, step: int, settings: dict) -> str:
    distiller = make_distiller(output_dir=str(folder), max_train_steps=4, **settings)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  pytest's is a file that could not grow either
    try:
        distiller.train(on_step=lambda record: fill_disk(bytes_left) if record.step == step else None)
    except CheckpointError as error:
        return str(error)
    return "trained"


@pytest.mark.parametrize(
    ("bytes_left", "step", "settings"),
    [
        (100, 3, {}),  # the next line of metrics.jsonl
        (20_000, 3, {}),  # the side-car of the last checkpoint, which safetensors writes
        (100_000, 3, {}),  # its trainer_state.pt, by torch
        (20_000, 3, {"validation_prompts": ("sun",), "validation_steps": 4, "validation_inference_steps": 1}),
    ],
    ids=["metrics", "side-car", "state", "with-grid"],
)
def test_the_newest_checkpoint_is_named(tmp_path, bytes_left, step, settings):
    message = in_child(train_until_full, tmp_path, bytes_left, step, {"checkpointing_steps": 2, **settings})
    assert "could not write" in message
    assert f"the newest usable checkpoint is {tmp_path}/checkpoint-2" in message
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-2"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_analyze_says_so_without_a_traceback(tmp_path, capfd):
    def analyze() -> str:
        fill_disk(20_000)
        options = ["--prompt", "sun", "--seeds", "0", "--timesteps", "0.5", "--num_inference_steps", "1"]
        return str(main(["analyze", "--model", "embedded", *options, "--output", str(tmp_path / "analysis")]))

    assert in_child(analyze) == "2"
    told = capfd.readouterr()
    assert "deltaconv analyze: [Errno 27] File too large" in told.err
    assert "half width" in told.out
