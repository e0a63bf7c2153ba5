"""The command `deltaconv`: what each subcommand writes, and how it answers mistakes."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from deltaconv_distill.cli import main
from deltaconv_distill.cli.main import COMMANDS
from deltaconv_distill.cli.sample import file_stem
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from distilling import CAPTIONS, RandomImages
from PIL import Image
from tiny_pipelines import tiny_sd

TEACHER = ("--pretrained_teacher_model", "MODEL")
EVALUATE = ("evaluate", *TEACHER, "--fusion", "nowhere", "--train_data_dir", "embedded")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    tiny_sd().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("images")
    images = RandomImages()
    for index, caption in enumerate(CAPTIONS):
        Image.fromarray(images.image(index).permute(1, 2, 0).numpy()).save(path / f"{index}.png")
        (path / f"{index}.txt").write_text(caption)
    return str(path)


def test_help_lists_the_commands_without_importing_torch():
    code = (
        "import sys\nfrom deltaconv_distill.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as exit: print('code', exit.code, 'torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {command} " in output for command in COMMANDS)
    assert "code 0 False" in output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    explained = capsys.readouterr().out
    assert f"usage: deltaconv {command}" in explained
    assert not re.search(r"default:\s+(None|False|\(\))", explained)


def test_info_as_json(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["backends"]["reference"] == {"available": True, "reason": None}
    assert facts["cpu"]["torch_threads"] == torch.get_num_threads()
    assert {"package", "commit", "gpus"} <= facts.keys()


def test_info_tells_why_a_backend_cannot_run(capsys):
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    assert "reference        can run" in output
    if not torch.cuda.is_available():
        assert "cuda             cannot run: " in output


def test_sample_writes_the_same_picture_for_the_same_seed(model, tmp_path, capsys):
    arguments = ["sample", "--model", model, "--prompt", "red cat", "--prompt", "a Sun!", "--num_inference_steps", "2"]
    for name in ("first", "second"):
        assert main([*arguments, "--seed", "3", "--output", str(tmp_path / name)]) == 0
    names = ["000-red-cat-3.png", "001-a-sun-4.png"]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == names
    assert str(tmp_path / "second" / names[1]) in capsys.readouterr().out
    first, second = (np.asarray(Image.open(tmp_path / run / names[0])) for run in ("first", "second"))
    assert first.shape == (16, 16, 3)
    assert (first == second).all()
    assert not (first == np.asarray(Image.open(tmp_path / "first" / names[1]))).all()


def test_distil_resume_and_sample(model, folder, tmp_path):
    output = tmp_path / "run"
    arguments = [
        "distill", "--pretrained_teacher_model", model, "--train_data_dir", folder, "--resolution", "16",
        "--kernel_size", "3", "--train_batch_size", "2", "--checkpointing_steps", "2", "--use_ema",
        "--output_dir", str(output),
    ]  # fmt: skip
    assert main([*arguments, "--max_train_steps", "2"]) == 0
    assert main([*arguments, "--max_train_steps", "3", "--resume_from_checkpoint", "latest"]) == 0
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 3
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    sample = [
        "sample",
        "--model",
        model,
        "--prompt",
        "sun",
        "--num_inference_steps",
        "2",
        "--height",
        "24",
        "--width",
        "40",
    ]
    assert main([*sample, "--fusion", str(output / "fusion"), "--output", str(tmp_path / "samples")]) == 0
    assert Image.open(tmp_path / "samples" / "000-sun-0-student.png").size == (40, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--prompt", "x", "--model", "no/such/model/at/all"], "--model: expected 'embedded', a folder"),
        (
            ["sample", "--prompt", "x", "--model", "MODEL", "--fusion", "nowhere"],
            "--fusion: expected a saved fusion's folder",
        ),
        (["sample", "--prompt", "x", "--model", "FOLDER"], "--model: expected"),
        (["sample", "--prompt", "x", "--model", "MODEL", "--fusion", "FOLDER"], "cannot be used with this model"),
        (
            ["sample", "--prompt", "x", "--model", "MODEL", "--height", "0"],
            "--height: expected a positive number, got 0",
        ),
        (
            ["sample", "--prompt", "x", "--model", "MODEL", "--height", "16"],
            "--height, --width: expected both or neither",
        ),
        (
            ["sample", "--prompt", "x", "--model", "MODEL", "--height", "17", "--width", "17"],
            "--height: expected a multiple of 8 pixels, got 17",
        ),
        (["demo", "--minutes", "0"], "--minutes: expected a positive number, got 0"),
        (["demo", "--output", "FOLDER"], "--output: expected a new folder or an earlier demo's"),
        (["distill", "--train_data_dir", "nowhere"], "--train_data_dir: expected a folder of images, got 'nowhere'"),
        (
            ["distill", "--train_data_dir", "FOLDER", "--learning_rate", "-1"],
            "--learning_rate: expected a positive number",
        ),
        (["distill", "--train_data_dir", "FOLDER", "--kernel_size", "4"], "--kernel_size 4: "),
        (
            ["distill", "--train_data_dir", "FOLDER", "--kernel_size", "big"],
            "--kernel_size: expected 'auto', an odd number or a JSON file",
        ),
        (["distill"], "--cached_data_dir: expected exactly one of them, got none"),
        (["distill", "--train_data_dir", "FOLDER", "--profile", "gone.json"], "--profile: 'gone.json' cannot be read"),
        (["distill", "--train_data_dir", "FOLDER", "--max_aspect_ratio", "0"], "max_aspect_ratio: expected at least 1"),
        (
            ["distill", "--cached_data_dir", "FOLDER", "--resolution", "512"],
            "no complete cache here: plan.json is missing",
        ),
        (["distill", "--train_shards", "pipe:false", "--stage1_repeats", "2"], "--stage1_repeats: expected 1"),
        (["distill", "--train_shards", "gone{0..3}.tar"], "--train_shards: no such file: gone0.tar and 3 more"),
        (["distill", "--train_shards", "pipe:false", "--cache_latents"], "--cache_latents: not with --train_shards"),
        (["distill", "--train_data_dir", "FOLDER", "--shuffle_buffer", "9"], "--shuffle_buffer: not with --train_data"),
        (["distill", "--train_data_dir", "embedded"], "--resolution: not with --train_data_dir embedded, which has"),
        (
            ["distill", "--train_data_dir", "FOLDER", "--learning_rate", "inf"],
            "--learning_rate: expected a finite numb",
        ),
        (["distill", "--train_data_dir", "FOLDER", "--output_dir", "file/run"], "--output_dir: expected a folder that"),
        (["sample", "--prompt", "x", "--device", "abacus"], "--device: cannot use 'abacus' (Expected one of cpu, cuda"),
        (["sample", "--prompt", "x", "--device", "meta"], "--device: cannot use 'meta' ("),
        (["sample", "--prompt", "x", "--output", "file/samples"], "--output: expected a folder that can be written to"),
        (["sample", "--prompt", "x", "--output", "cat.tiff"], "--output: expected a folder, or a file that ends in"),
        (["analyze", "--device", "abacus"], "--device: cannot use 'abacus'"),
        (["analyze", "--output", "file"], "file is a file"),
        (["demo", "--output", "file"], "file is a file"),
        (["cache", *TEACHER, "--train_data_dir", "FOLDER", "--output_dir", "file"], "--output_dir: expected a folder"),
        (["cache", *TEACHER, "--train_data_dir", "FOLDER", "--output_dir", "c", "--device", "abacus"], "--device: "),
        ([*EVALUATE, "--output", "FOLDER"], "--output: expected a file, "),
        ([*EVALUATE, "--device", "abacus"], "--device: cannot use 'abacus'"),
        ([*EVALUATE, "--height", "64"], "--height, --width: expected both or neither"),
        (["check", "file"], "deltaconv check: data: expected a folder, a hub id or shards (.tar), file is a file"),
        (["check", "."], "deltaconv check: data: no images"),
        (["sample", "--prompt", "x", "--guidance_scale", "nan"], "--guidance_scale: expected a finite number, got nan"),
        (["flops", "--kernel_size", "x"], "--kernel_size: expected 'auto' or an odd number, got 'x'"),
        (["flops", "--sizes", "0"], "--sizes: expected positive multiples of 8"),
        (["info", "--gpu", "h100"], "--gpu: expected --shape with it"),
        (["info", "--json", "--check"], "--json, --check: expected one of them at most"),
        (["info", "--shape", "1,2,x"], "--shape: expected numbers separated by commas, got '1,2,x'"),
        (["distill", "--train_data_dir", "FOLDER", "--report_to", "paper"], "--report_to: expected one of"),
        (
            ["distill", "--train_data_dir", "FOLDER", "--resume_from_checkpoint", "gone"],
            "gone: no such checkpoint directory",
        ),
    ],
    ids=lambda value: "-".join(value).replace("/", "_") if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, message, model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    arguments = [{"MODEL": model, "FOLDER": folder}.get(argument, argument) for argument in arguments]
    if arguments[0] == "distill":
        arguments += ["--pretrained_teacher_model", model]
        arguments += [] if "--resolution" in arguments else ["--resolution", "16"]
        arguments += [] if "--kernel_size" in arguments else ["--kernel_size", "3"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"deltaconv {arguments[0]}: " in error
    assert message in error
    assert "Traceback" not in error


def test_traceback_on_request(tmp_path):
    with pytest.raises(Exception, match="--minutes: expected a positive number"):
        main(["demo", "--minutes", "-1", "--traceback"])


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["paint"])
    assert exit.value.code == 2
    assert "paint" in capsys.readouterr().err


def test_the_embedded_teacher_is_a_pipeline():
    from deltaconv_distill.cli.pipelines import load_pipeline

    assert isinstance(load_pipeline("embedded", "--model"), StableDiffusionPipeline)
    assert isinstance(load_pipeline("embedded-mmdit", "--model"), StableDiffusion3Pipeline)


@pytest.mark.parametrize(
    ("prompt", "stem"), [("Red, Apple!", "red-apple"), ("…", "untitled"), ("x" * 99, "x" * 48), ("a/b\\c", "a-b-c")]
)
def test_prompts_as_file_names(prompt, stem):
    assert file_stem(prompt) == stem
