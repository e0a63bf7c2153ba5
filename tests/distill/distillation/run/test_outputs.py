"""What a run leaves behind: validation grids, tracker, card; and the commands cache, distill and evaluate in turn."""

import json

import numpy as np
import pytest
import torch
import yaml
from deltaconv_distill.cli import main
from distilling import CAPTIONS, RandomImages, make_distiller
from PIL import Image
from tiny_pipelines import tiny_sd

VALIDATION = {"validation_prompts": ("sun", "red cat"), "validation_steps": 2, "validation_inference_steps": 2}


def test_validation_grids_show_teacher_above_student_and_change_nothing(tmp_path):
    plain = make_distiller(output_dir=str(tmp_path / "plain"), max_train_steps=4, use_ema=True)
    expected = plain.train()
    distiller = make_distiller(output_dir=str(tmp_path / "run"), max_train_steps=4, use_ema=True, **VALIDATION)
    records = distiller.train()
    assert [record.terms for record in records] == [record.terms for record in expected]
    names = sorted(path.name for path in (tmp_path / "run" / "validation").iterdir())
    assert names == ["step-000002.png", "step-000004.png"]
    with Image.open(tmp_path / "run" / "validation" / names[1]) as grid:
        pixels = np.asarray(grid)
    assert pixels.shape == (32, 32, 3)
    with distiller.fusion.teacher():
        shown = distiller.pipe(
            "red cat", num_inference_steps=2, height=16, width=16, generator=torch.Generator().manual_seed(1)
        ).images[0]
    assert (pixels[:16, 16:] == np.asarray(shown)).all()
    assert not (pixels[:16] == pixels[16:]).all()


@pytest.mark.parametrize("report_to", ["tensorboard", "all"])
def test_tensorboard_has_every_term_and_the_grid(tmp_path, report_to):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    distiller = make_distiller(output_dir=str(tmp_path), max_train_steps=2, report_to=report_to, **VALIDATION)
    records = distiller.train()
    folder = next(path.parent for path in (tmp_path / "logs").rglob("events.*") if "validation" not in path.parts)
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    for term in ("noise", "kd", "feat"):
        logged = [event.value for event in events.Scalars(f"loss/{term}")]
        assert logged == pytest.approx([record.terms[term] for record in records])
    assert "grad_norm" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["validation/teacher_above_student"]


def test_the_card_tells_what_was_trained_and_how(tmp_path):
    pipe = tiny_sd()
    pipe.register_to_config(_name_or_path="somebody/tiny-sd")
    distiller = make_distiller(pipe, output_dir=str(tmp_path), max_train_steps=3, learning_rate=1e-2)
    distiller.train()
    _, head, text = (tmp_path / "fusion" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == "somebody/tiny-sd"
    assert "- `learning_rate`: 0.01" in text
    assert "seed" not in text
    assert "| kernel sizes | 3 (x7) (given) |" in text
    assert "| loss, kd |" in text
    assert f"{sum(p.numel() for p in distiller.parameters):,}" in text
    make_distiller(
        output_dir=str(tmp_path), max_train_steps=4, learning_rate=1e-2, resume_from_checkpoint="latest"
    ).train()
    assert "| optimizer steps | 4, of which 0 were skipped" in (tmp_path / "fusion" / "README.md").read_text()


def test_the_card_of_a_local_teacher_names_no_path(tmp_path):
    pipe = tiny_sd()
    pipe.register_to_config(_name_or_path=tmp_path)
    make_distiller(pipe, output_dir=str(tmp_path / "run"), max_train_steps=1).train()
    _, head, text = (tmp_path / "run" / "fusion" / "README.md").read_text().split("---\n", 2)
    assert "base_model" not in yaml.safe_load(head)
    assert str(tmp_path) not in text


def test_cache_distil_and_evaluate_from_the_command_line(tmp_path, capsys):
    tiny_sd().save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    images = RandomImages()
    for index, caption in enumerate(CAPTIONS):
        Image.fromarray(images.image(index).permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{index}.png")
        (tmp_path / "images" / f"{index}.txt").write_text(caption)
    teacher = ["--pretrained_teacher_model", str(tmp_path / "model")]
    folder = ["--train_data_dir", str(tmp_path / "images"), "--resolution", "16"]
    cache, run = str(tmp_path / "cache"), str(tmp_path / "run")
    assert main(["cache", *teacher, *folder, "--output_dir", cache]) == 0
    assert "5 examples" in capsys.readouterr().out
    options = ["--kernel_size", "3", "--train_batch_size", "2", "--max_train_steps", "2", "--output_dir", run]
    assert main(["distill", *teacher, "--cached_data_dir", cache, *options, "--validation_prompts", "sun", "cup"]) == 0
    measured = ["--examples", "2", "--timesteps", "2", "--batch_size", "2", "--images", "2"]
    output = str(tmp_path / "figures.json")
    arguments = ["evaluate", *teacher, "--fusion", f"{run}/fusion", *folder, *measured, "--num_inference_steps", "2"]
    assert main([*arguments, "--output", output]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["by_timestep"]) == 2
    assert figures["images"].keys() == {
        "pixel_difference", "fd_effnet_student_teacher", "fd_effnet_teacher_real", "fd_effnet_student_real"
    }  # fmt: skip
    assert "student to teacher" in capsys.readouterr().out
    assert main([*arguments, "--clip_model", "/nowhere"]) == 2
    assert "--clip_model: expected a path of weights" in capsys.readouterr().err
    assert main(["distill", *teacher, "--cached_data_dir", cache, *folder]) == 2
    assert "expected exactly one of them, got --train_data_dir, --cached_data_dir" in capsys.readouterr().err
