"""Ctrl-C and SIGTERM: the step is finished, a checkpoint written and named, the exit code the usual one."""

import os
import signal
import threading

import pytest
from deltaconv_distill.cli import main
from deltaconv_distill.distillation import Distiller, TrainingInterrupted
from distilling import RandomImages, make_distiller
from tiny_pipelines import tiny_sd

SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture(autouse=True)
def default_handlers():
    """A process that a shell started in the background ignores Ctrl-C; these tests are of one that does not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int, step: int):
    return lambda record: os.kill(os.getpid(), number) if record.step == step else None


@SIGNALS
def test_a_signal_ends_the_run_after_a_checkpoint_that_it_goes_on_from(tmp_path, number, code):
    before = signal.getsignal(number)
    distiller = make_distiller(output_dir=str(tmp_path), max_train_steps=5)
    with pytest.raises(TrainingInterrupted, match=r"after step 2: saved .*checkpoint-2; resume_from") as info:
        distiller.train(on_step=send(number, step=2))
    assert info.value.exit_code == code
    assert signal.getsignal(number) is before
    assert not (tmp_path / "fusion").exists()
    resumed = make_distiller(output_dir=str(tmp_path), max_train_steps=5, resume_from_checkpoint="latest")
    assert resumed.step == 2
    whole = make_distiller(max_train_steps=5).train()
    assert [record.terms for record in resumed.train()] == [record.terms for record in whole]


def test_without_output_dir_it_says_that_nothing_is_saved():
    with pytest.raises(TrainingInterrupted, match="SIGINT after step 1: nothing is saved without output_dir"):
        make_distiller().train(on_step=send(signal.SIGINT, step=1))


def test_the_second_ctrl_c_stops_at_once(tmp_path):
    distiller = make_distiller(output_dir=str(tmp_path), max_train_steps=5)

    def twice(record):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as info:
        distiller.train(on_step=twice)
    assert not isinstance(info.value, TrainingInterrupted)
    assert distiller.step == 1


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    distiller = make_distiller(output_dir=str(tmp_path), max_train_steps=2)
    assert len(distiller.train(on_step=send(signal.SIGTERM, step=2))) == 2
    assert (tmp_path / "fusion").exists()


def test_training_works_in_a_thread_which_gets_no_signals():
    records = []
    thread = threading.Thread(target=lambda: records.extend(make_distiller(max_train_steps=1).train()))
    thread.start()
    thread.join()
    assert len(records) == 1


@SIGNALS
def test_the_command_exits_with_the_usual_code(tmp_path, capsys, monkeypatch, number, code):
    tiny_sd().save_pretrained(tmp_path / "model")
    run = str(tmp_path / "run")
    step = Distiller.train_step
    monkeypatch.setattr(Distiller, "train_step", lambda self: (step(self), signal.raise_signal(number))[0])
    arguments = ["--pretrained_teacher_model", str(tmp_path / "model"), "--train_data_dir", "embedded"]
    settings = ["--kernel_size", "3", "--train_batch_size", "1", "--output_dir", run]
    monkeypatch.setattr("deltaconv_distill.distillation.EmojiImages", RandomImages)
    assert main(["distill", *arguments, *settings]) == code
    assert f"after step 1: saved {run}/checkpoint-1" in capsys.readouterr().err
