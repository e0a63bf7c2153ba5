"""Which model and which blocks the commands load, and what they say of those that they cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.cli import main
from diffusers import DiffusionPipeline
from distilling import CAPTIONS, RandomImages
from ldm_checkpoint import as_one_file
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from tiny_pipelines import tiny_sd, tiny_sd_unet, tiny_sdxl

SAMPLE = ["sample", "--prompt", "a cat", "--num_inference_steps", "2"]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def expected(pipe: DiffusionPipeline, **options) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 3.0, "num_inference_steps": 2, "generator": torch.manual_seed(0)} | options
    return np.asarray(pipe("a cat", **options).images[0]).astype(int)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_sd().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """Saved while converted."""
    path = tmp_path_factory.mktemp("converted")
    pipe = tiny_sd()
    DeltaConvFusion.convert(pipe, kernel_size=3)
    pipe.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("images")
    for index, caption in enumerate(CAPTIONS):
        Image.fromarray(RandomImages().image(index).permute(1, 2, 0).numpy()).save(path / f"{index}.png")
        (path / f"{index}.txt").write_text(caption)
    return str(path)


def test_no_negative_prompt_is_none(tmp_path):
    """SDXL conditions on zeros then, not on the empty prompt: the picture of pipe(prompt)."""
    pipe = tiny_sdxl()
    pipe.save_pretrained(tmp_path / "model")
    output = tmp_path / "cat.png"
    for arguments, negative in (([], None), (["--negative_prompt", ""], "")):
        assert main([*SAMPLE, "--model", str(tmp_path / "model"), "--output", str(output), *arguments]) == 0
        assert (pixels(output) == expected(pipe, negative_prompt=negative)).all()
    assert (expected(pipe) != expected(pipe, negative_prompt="")).any()


def test_blocks_saved_with_a_model_are_attached(converted, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(converted, safety_checker=None)
    teacher = expected(pipe)
    DeltaConvFusion.attach_saved(pipe)
    student = expected(pipe)
    assert (teacher != student).any()
    arguments = [*SAMPLE, "--model", str(converted), "--output", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--no_fusion"]) == 0
    assert (pixels(tmp_path / "000-a-cat-0-student.png") == student).all()
    assert (pixels(tmp_path / "000-a-cat-0.png") == teacher).all()


def test_variant_of_a_converted_model(tmp_path):
    pipe = tiny_sd()
    DeltaConvFusion.convert(pipe, kernel_size=3)
    pipe.save_pretrained(tmp_path / "model", variant="fp16")
    arguments = [*SAMPLE, "--model", str(tmp_path / "model"), "--output", str(tmp_path / "cat.png")]
    assert main([*arguments, "--variant", "fp16"]) == 0
    assert (pixels(tmp_path / "cat.png") == expected(pipe)).all()


def test_a_checkpoint_in_one_file(model, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(model, safety_checker=None)
    save_file(as_one_file(pipe), tmp_path / "one.safetensors")
    arguments = [*SAMPLE, "--model", str(tmp_path / "one.safetensors"), "--output", str(tmp_path / "cat.png")]
    assert main([*arguments, "--config", str(model)]) == 0
    assert abs(pixels(tmp_path / "cat.png") - expected(pipe)).max() <= 1


def test_a_checkpoint_in_one_file_that_lacks_parts(model, tmp_path, capsys):
    save_file({"conv_in.weight": torch.zeros(2, 2)}, tmp_path / "one.safetensors")
    arguments = [*SAMPLE, "--model", str(tmp_path / "one.safetensors"), "--config", str(model)]
    assert main(arguments) == 2
    assert "a .safetensors or .ckpt file, or a hub id, got" in capsys.readouterr().err
    assert main([*arguments, "--variant", "fp16"]) == 2
    assert "--variant: not for a single file" in capsys.readouterr().err


def test_a_run_stands_for_its_fusion_and_flags_choose_its_blocks(model, folder, tmp_path, capsys):
    layers = DeltaConvFusion.layers_of(tiny_sd_unet())
    (tmp_path / "sizes.json").write_text(json.dumps(dict(zip(layers[:2], (3, 5), strict=True))))
    run = tmp_path / "run"
    distill = [
        "distill", "--pretrained_teacher_model", str(model), "--train_data_dir", folder, "--resolution", "16",
        "--train_batch_size", "2", "--max_train_steps", "1",
    ]  # fmt: skip
    blocks = ["--kernel_size", str(tmp_path / "sizes.json"), "--gate", "sigmoid", "--expansion", "1"]
    blocks += ["--only", "down_blocks.*", layers[2], "--exclude", layers[2]]
    assert main([*distill, *blocks, "--output_dir", str(run)]) == 0
    fusion = DeltaConvFusion.from_pretrained(run / "fusion")
    assert {name: block.kernel_size for name, block in fusion.blocks.items()} == dict(
        zip(layers[:2], (3, 5), strict=True)
    )
    assert {(block.gate, block.in_proj.out_features // block.dim) for block in fusion.blocks.values()} == {
        ("sigmoid", 1)
    }
    assert main([*SAMPLE, "--model", str(model), "--fusion", str(run), "--output", str(tmp_path / "cat.png")]) == 0
    capsys.readouterr()
    assert main([*distill, *blocks, "--fusion", str(run), "--output_dir", str(tmp_path / "next")]) == 2
    error = capsys.readouterr().err
    assert "--kernel_size, --exclude, --only, --gate, --expansion: not with --fusion" in error


def test_scheduler_lora_and_images_of_a_prompt(model, tmp_path):
    unet = tiny_sd_unet()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))
    state = {f"unet.{key}": value for key, value in get_peft_model_state_dict(unet).items()}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "cat.safetensors")
    arguments = [*SAMPLE, "--model", str(model), "--images_per_prompt", "2", "--prompt", "sun"]
    for name, extra in {
        "plain": [],
        "heun": ["--scheduler", "HeunDiscreteScheduler"],
        "lora": ["--lora", str(tmp_path / "cat.safetensors")],
        "weak": ["--lora", str(tmp_path / "cat.safetensors"), "--lora_scale", "0"],
    }.items():
        assert main([*arguments, *extra, "--output", str(tmp_path / name)]) == 0
    names = ["000-a-cat-0.png", "000-a-cat-1.png", "001-sun-2.png", "001-sun-3.png"]
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == names
    pictures = {name: pixels(tmp_path / name / names[1]) for name in ("plain", "heun", "lora", "weak")}
    assert (pictures["plain"] == pictures["weak"]).all()
    assert (pictures["plain"] != pictures["lora"]).any()
    assert (pictures["plain"] != pictures["heun"]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--fusion", "UNET"],
            "cannot be used with this model (path: expected the side-car of a DeltaConvFusion, got a",
        ),
        (["--fusion", "MODEL"], "--fusion: "),
        (["--fusion", "UNET", "--no_fusion"], "--fusion, --no_fusion: expected one of them at most"),
        (["--output", "FILE"], "--output: expected a folder, or a file that ends in .png"),
        (["--output", "FILE/deeper"], "--output: "),
        (
            ["--output", "x.png", "--images_per_prompt", "2"],
            "--output: expected a folder for 2 images, got the file x.png",
        ),
        (["--scheduler", "Heun"], "--scheduler: expected one of DDIMScheduler, "),
        (["--scheduler", "UNet2DConditionModel"], "--scheduler: expected one of "),
        (["--lora", "gone"], "--lora: expected a folder or a file, got 'gone'"),
        (["--lora", "FILE"], "cannot be used with this model"),
        (["--lora_scale", "2"], "--lora_scale: expected --lora with it"),
        (["--config", "MODEL"], "--config: not for a pipeline's folder"),
        (["--variant", "fp16"], "--model: expected"),
        (["--model", "UNET"], "--model: expected"),
        (["--model", "FILE"], "--model: expected"),
        (["--model", "HALF"], "--model: expected"),
        (["--model", "embedded", "--revision", "main"], "--revision: not for --model embedded"),
    ],
    ids=lambda value: "-".join(value).replace("/", "_") if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(arguments, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    half = tmp_path / "half"
    half.mkdir()
    (half / "model_index.json").write_text((model / "model_index.json").read_text())
    places = {"UNET": str(model / "unet"), "MODEL": str(model), "FILE": "notes.txt", "HALF": str(half)}
    arguments = [places.get(argument, argument.replace("FILE", "notes.txt")) for argument in arguments]
    before = [] if "--model" in arguments else ["--model", str(model)]
    assert main([*SAMPLE, *before, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_epochs_and_all_trackers(model, folder, tmp_path, capsys):
    distill = [
        "distill", "--pretrained_teacher_model", str(model), "--train_data_dir", folder, "--resolution", "16",
        "--kernel_size", "3", "--train_batch_size", "3", "--report_to", "all",
    ]  # fmt: skip
    assert main([*distill, "--num_train_epochs", "2", "--output_dir", str(tmp_path / "run")]) == 0
    steps = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == -(-2 * len(CAPTIONS) // 3)
    assert list((tmp_path / "run" / "logs").rglob("events.out.tfevents.*"))
    capsys.readouterr()
    for arguments, message in {
        ("--num_train_epochs", "0"): "--num_train_epochs: expected at least 1, got 0",
        ("--num_train_epochs", "1", "--max_train_steps", "5"): "--num_train_epochs, --max_train_steps: expected one",
    }.items():
        assert main([*distill, *arguments, "--output_dir", str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--clip_model", "--dino_model", "--inception_weights"])
def test_weights_of_measures_are_looked_for_before_anything_runs(flag, capsys):
    arguments = ["evaluate", "--pretrained_teacher_model", "no/model", "--fusion", "none", "--train_data_dir", "none"]
    assert main([*arguments, flag, "gone"]) == 2
    assert f"{flag}: expected a path of weights on this machine, got 'gone'" in capsys.readouterr().err
