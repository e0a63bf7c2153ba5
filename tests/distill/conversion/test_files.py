"""Saving and loading: the side-car, and converted models and pipelines."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from diffusers import ModelMixin, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_pipelines import predict, tiny_sd, tiny_sd_unet

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_side_car_round_trip(tmp_path: Path, denoiser: torch.nn.Module, dtype: torch.dtype) -> None:
    denoiser.to(dtype)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=5, factors=(1, 3), gate="sigmoid", expansion=1.0)
    student = predict(denoiser)
    fusion.save_pretrained(tmp_path / "fusion")
    fusion.detach()
    loaded = DeltaConvFusion.from_pretrained(tmp_path / "fusion")
    assert torch.equal(predict(loaded.attach(denoiser) and denoiser), student)
    assert loaded.dtype == dtype
    assert loaded.state_dict().keys() == fusion.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in fusion.state_dict().items())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["fusion"]


def test_side_car_names_every_layer(tmp_path: Path) -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=5, exclude="up_blocks.*")
    fusion.save_pretrained(tmp_path / "fusion")
    config = json.loads((tmp_path / "fusion" / "config.json").read_text())
    assert config["denoiser"] == "UNet2DConditionModel"
    assert config["layers"][MID] == {
        "dim": 32,
        "kernel_size": 5,
        "factors": [1, 2],
        "expansion": 0.5,
        "gate": "scaled",
        "gate_scale": 8**0.5,
        "bias": True,
    }
    assert len(config["layers"]) == 3
    assert len(config["excluded"]) == 4
    keys = load_file(tmp_path / "fusion" / WEIGHTS).keys()
    assert {key.split(".attn1.")[0] + ".attn1" for key in keys} == set(config["layers"])


@torch.no_grad()
def test_loaded_fusion_fits_its_pipeline_only_with_the_same_exclusions(tmp_path: Path) -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3, exclude="up_blocks.*")
    fusion.save_pretrained(tmp_path / "fusion")
    unet = tiny_sd_unet()
    loaded = DeltaConvFusion.from_pretrained(tmp_path / "fusion").attach(unet)
    assert list(loaded.blocks) == list(fusion.blocks)
    assert loaded.report.excluded == fusion.report.excluded


def test_side_car_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3)
    target = tmp_path / "fusion"
    fusion.save_pretrained(target)
    with torch.no_grad():
        fusion.blocks[MID].weight.fill_(7)
    fusion.save_pretrained(target)
    assert (DeltaConvFusion.from_pretrained(target).blocks[MID].weight == 7).all()
    (target / "notes.txt").write_text("mine")
    unet = tmp_path / "unet"
    tiny_sd_unet().save_pretrained(unet)
    for place in (target, target / "notes.txt", unet):
        with pytest.raises(FileExistsError, match="save_directory: expected a new directory or an earlier side-car"):
            fusion.save_pretrained(place)
    assert (target / "notes.txt").read_text() == "mine"


def test_failed_save_leaves_the_earlier_side_car(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3)
    fusion.save_pretrained(tmp_path / "fusion")
    before = {file.name: file.read_bytes() for file in (tmp_path / "fusion").iterdir()}

    def fill_the_disk(model: ModelMixin, save_directory: Path, **options: object) -> None:
        (Path(save_directory) / WEIGHTS).write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(ModelMixin, "save_pretrained", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        fusion.save_pretrained(tmp_path / "fusion")
    assert {file.name: file.read_bytes() for file in (tmp_path / "fusion").iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["fusion"]


def test_gate_scale_comes_from_the_config(tmp_path: Path) -> None:
    config = dict(DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3).config)
    layers = {name: {**layer, "gate_scale": 2.5} for name, layer in config["layers"].items()}
    DeltaConvFusion.from_config(config | {"layers": layers}).save_pretrained(tmp_path / "fusion")
    loaded = DeltaConvFusion.from_pretrained(tmp_path / "fusion")
    assert {block.gate_scale for block in loaded.blocks.values()} == {2.5}


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_the_config(tmp_path: Path, damage: str) -> None:
    DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3).save_pretrained(tmp_path / "fusion")
    weights = load_file(tmp_path / "fusion" / WEIGHTS)
    if damage == "missing":
        del weights[f"{MID}.in_proj.weight"]
    elif damage == "unexpected":
        weights[f"{MID}.gate.weight"] = torch.zeros(1)
    else:
        weights[f"{MID}.in_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, tmp_path / "fusion" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{MID}.(in_proj|gate).weight"):
        DeltaConvFusion.from_pretrained(tmp_path / "fusion")


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="fusion"):
        DeltaConvFusion.from_pretrained(tmp_path / "fusion")


@torch.no_grad()
def test_saving_a_converted_pipeline_writes_teacher_and_side_car(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tiny_sd()
    teacher = predict(pipe.unet)
    keys = pipe.unet.state_dict().keys()
    DeltaConvFusion.convert(pipe, kernel_size=3)
    student = predict(pipe.unet)
    pipe.save_pretrained(tmp_path / "pipe")
    assert "DeltaConvFusion.attach_saved" in caplog.text
    assert load_file(tmp_path / "pipe" / "unet" / WEIGHTS).keys() == keys
    reloaded = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe", safety_checker=None)
    assert torch.equal(predict(reloaded.unet), teacher)
    DeltaConvFusion.from_pretrained(tmp_path / "pipe" / "unet" / "deltaconv.fusion").attach(reloaded)
    assert torch.equal(predict(reloaded.unet), student)
    assert torch.equal(predict(pipe.unet), student)


@torch.no_grad()
def test_failed_save_of_a_converted_denoiser_leaves_it_converted(tmp_path: Path) -> None:
    unet = tiny_sd_unet()
    DeltaConvFusion.convert(unet, kernel_size=3)
    student, keys = predict(unet), list(unet.state_dict())
    with pytest.raises(ValueError, match="huge"):
        unet.save_pretrained(tmp_path / "unet", max_shard_size="huge")
    assert list(unet.state_dict()) == keys
    assert torch.equal(predict(unet), student)


@torch.no_grad()
def test_deep_copies_are_independent(tmp_path: Path) -> None:
    unet = tiny_sd_unet()
    teacher = predict(unet)
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    student = predict(unet)
    copied = copy.deepcopy(unet)
    fusion_of_copy = DeltaConvFusion.attached_to(copied)
    assert fusion_of_copy is not fusion
    for name, block in fusion_of_copy.blocks.items():
        assert block is copied.get_submodule(name).deltaconv
        block.weight.zero_()
    assert torch.equal(predict(unet), student)
    assert not torch.equal(predict(copied), student)
    with fusion.teacher():
        assert not torch.equal(predict(copied), teacher)
        assert torch.equal(predict(unet), teacher)
    with fusion_of_copy.record_features() as features:
        predict(unet)
        assert not features
        predict(copied)
        assert list(features) == list(fusion.blocks)
    copied.save_pretrained(tmp_path / "copy")
    assert torch.equal(predict(UNet2DConditionModel.from_pretrained(tmp_path / "copy")), teacher)
    side_car = DeltaConvFusion.from_pretrained(tmp_path / "copy" / "deltaconv.fusion")
    assert not any(block.weight.any() for block in side_car.blocks.values())
    fusion_of_copy.detach()
    assert torch.equal(predict(copied), teacher)
    assert not any(module._forward_pre_hooks for module in copied.modules())
    assert torch.equal(predict(unet), student)
    fusion.detach()
    assert torch.equal(predict(unet), teacher)


def test_copy_of_a_pipeline_has_a_fusion_of_its_own() -> None:
    pipe = tiny_sd()
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    copied = copy.deepcopy(pipe)
    assert DeltaConvFusion.attached_to(copied) not in (None, fusion)
    assert DeltaConvFusion.attached_to(pipe) is fusion
