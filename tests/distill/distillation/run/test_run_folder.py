"""A folder belongs to one run: used ones are refused or taken over, two at once never train, nothing is mixed."""

import json
import logging
import multiprocessing

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.distillation import CheckpointError, RunFolderError
from deltaconv_distill.distillation.run.checkpoint import list_checkpoints
from distilling import make_distiller
from filelock import FileLock

FORK = multiprocessing.get_context("fork")


def train(folder, steps: int = 4, **settings):
    distiller = make_distiller(output_dir=str(folder), max_train_steps=steps, **{"checkpointing_steps": 2, **settings})
    distiller.train()
    return distiller


def names(folder) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def test_a_used_folder_is_refused_before_training(tmp_path):
    train(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RunFolderError, match=r"output_dir: .* holds checkpoint-4, checkpoint-2, fusion and 1 more of"):
        train(tmp_path, learning_rate=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("left", ["checkpoint-7", "metrics.jsonl", "fusion"])
def test_any_part_of_a_run_is_use(tmp_path, left):
    train(tmp_path / "run", steps=7, checkpointing_steps=7)
    (tmp_path / "new").mkdir()
    (tmp_path / "run" / left).rename(tmp_path / "new" / left)
    with pytest.raises(RunFolderError, match=left):
        make_distiller(output_dir=str(tmp_path / "new"))


def test_a_used_folder_is_taken_over_by_the_flag(tmp_path):
    train(tmp_path, steps=6)
    (tmp_path / "notes.txt").write_text("mine")
    kept = []
    distiller = make_distiller(
        output_dir=str(tmp_path), max_train_steps=4, checkpointing_steps=2, checkpoints_total_limit=1,
        learning_rate=1e-3, overwrite_output_dir=True,
    )  # fmt: skip
    assert names(tmp_path)[0] == "checkpoint-6"  # nothing goes before training begins
    distiller.train(on_step=lambda record: kept.append(names(tmp_path)))
    assert kept == [[], [], ["checkpoint-2"], ["checkpoint-2"]]
    assert names(tmp_path) == ["checkpoint-4"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    resumed = train(tmp_path, steps=6, resume_from_checkpoint="latest", learning_rate=1e-3)
    assert [record.step for record in resumed.outputs.log.records] == [1, 2, 3, 4, 5, 6]


def test_the_flag_removes_a_trackers_files_and_resuming_keeps_them(tmp_path):
    def event_files():
        return {path.name for path in (tmp_path / "logs").rglob("events*")}

    train(tmp_path, report_to="tensorboard")
    first = event_files()
    train(tmp_path, steps=6, report_to="tensorboard", resume_from_checkpoint="latest", overwrite_output_dir=True)
    both = event_files()
    assert first
    assert first < both
    train(tmp_path, report_to="tensorboard", overwrite_output_dir=True)
    assert event_files()
    assert not event_files() & both


def test_a_foreign_fusion_is_refused_before_training_and_never_removed(tmp_path):
    (tmp_path / "fusion").mkdir()
    (tmp_path / "fusion" / "thesis.txt").write_text("mine")
    for flag in (False, True):
        with pytest.raises(RunFolderError, match=r"fusion is no fusion of a run, which would take its place"):
            make_distiller(output_dir=str(tmp_path), overwrite_output_dir=flag)
    assert (tmp_path / "fusion" / "thesis.txt").read_text() == "mine"


def test_a_file_is_no_output_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"expected a folder that can be written to, .*file is a file"):
        make_distiller(output_dir=str(tmp_path / "file"))
    with pytest.raises(RunFolderError, match=r"expected a folder that can be written to, .*file is a file"):
        make_distiller(output_dir=str(tmp_path / "file" / "run"))


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # for root no folder is so
    with pytest.raises(RunFolderError, match=rf"expected a folder that can be written to, {tmp_path} is not writable"):
        make_distiller(output_dir=str(tmp_path / "run"))


def test_two_runs_at_once_are_one_too_many(tmp_path):
    first, second = (make_distiller(output_dir=str(tmp_path), max_train_steps=2) for _ in range(2))
    refused = []

    def start_another(record):
        if record.step == 1:
            with pytest.raises(RunFolderError, match="another process is training into"):
                second.train()
            refused.append(True)

    first.train(on_step=start_another)
    assert refused == [True]
    with pytest.raises(RunFolderError, match="holds checkpoint-2"):  # too late: the first has finished
        second.train()
    assert json.loads((tmp_path / "run.json").read_text())["run"] == first.outputs._run_folder.run


def test_the_lock_holds_between_processes_and_goes_with_its_process(tmp_path):
    lock = FileLock(tmp_path / "run.lock")
    with lock:
        process = FORK.Process(target=train, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == 1
        assert names(tmp_path) == []
    train(tmp_path)


def test_a_resumed_run_keeps_its_name(tmp_path):
    train(tmp_path)
    name = json.loads((tmp_path / "run.json").read_text())["run"]
    train(tmp_path, steps=6, resume_from_checkpoint="latest")
    assert json.loads((tmp_path / "run.json").read_text())["run"] == name
    assert json.loads((tmp_path / "checkpoint-6" / "manifest.json").read_text())["run"] == name


def test_going_back_gives_the_later_part_up_only_by_the_flag(tmp_path):
    train(tmp_path, steps=6)
    back = {"resume_from_checkpoint": str(tmp_path / "checkpoint-2")}
    with pytest.raises(RunFolderError, match="holds checkpoint-6, checkpoint-4 of another run, or of a later part"):
        train(tmp_path, steps=4, **back)
    train(tmp_path, steps=4, overwrite_output_dir=True, **back)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-2"]


def test_a_damaged_newest_checkpoint_does_not_push_out_sound_ones(tmp_path):
    train(tmp_path, steps=6)
    (tmp_path / "checkpoint-6" / "trainer_state.pt").unlink()
    distiller = make_distiller(
        output_dir=str(tmp_path), max_train_steps=6, checkpointing_steps=1, checkpoints_total_limit=1,
        resume_from_checkpoint="latest",
    )  # fmt: skip
    distiller.train_step()
    distiller.save_checkpoint()
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-5"]


def test_checkpoints_of_another_run_are_passed_over(tmp_path, caplog):
    train(tmp_path / "one", steps=6)
    train(tmp_path / "two", steps=2)
    (tmp_path / "one" / "checkpoint-6").rename(tmp_path / "two" / "checkpoint-6")
    with caplog.at_level(logging.WARNING), pytest.raises(RunFolderError, match="holds checkpoint-6"):
        make_distiller(output_dir=str(tmp_path / "two"), checkpointing_steps=2, resume_from_checkpoint="latest")
    assert "checkpoint-6: belongs to another run than run.json names" in caplog.text
    (tmp_path / "two" / "run.json").write_text('{"run": "a third"}')
    with pytest.raises(CheckpointError, match="every checkpoint is damaged, or another run's"):
        make_distiller(output_dir=str(tmp_path / "two"), resume_from_checkpoint="latest")


def test_saving_again_keeps_the_card(tmp_path):
    train(tmp_path)
    card = (tmp_path / "fusion" / "README.md").read_text()
    fusion = DeltaConvFusion.from_pretrained(tmp_path / "fusion")
    with torch.no_grad():
        next(fusion.parameters()).zero_()
    fusion.save_pretrained(tmp_path / "fusion")
    assert (tmp_path / "fusion" / "README.md").read_text() == card
    assert next(DeltaConvFusion.from_pretrained(tmp_path / "fusion").parameters()).abs().max() == 0
