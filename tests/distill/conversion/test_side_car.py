"""The side-car beside a saved model: variants, cards, shards, the teacher that it remembers, and uploads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.teacher_record import describe_teacher, differences_from
from diffusers import AnimateDiffPipeline, DiffusionPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.training_utils import EMAModel
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from safetensors.torch import load_file
from tiny_pipelines import predict, tiny_pixart_transformer, tiny_sd, tiny_sd_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"
MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """This project's own."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("deltaconv")]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@torch.no_grad()
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_saved_converted_pipeline_is_converted_again_by_one_line(tmp_path: Path, variant: str | None) -> None:
    pipe = tiny_sd()
    teacher = predict(pipe.unet)
    DeltaConvFusion.convert(pipe, kernel_size=3)
    student = predict(pipe.unet)
    pipe.save_pretrained(tmp_path, variant=variant)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, variant=variant, safety_checker=None)
    assert torch.equal(predict(loaded.unet), teacher)
    fusion = DeltaConvFusion.attach_saved(loaded, variant=variant)
    assert torch.equal(predict(loaded.unet), student)
    unet = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet", variant=variant)
    DeltaConvFusion.attach_saved(unet, variant=variant)
    assert torch.equal(predict(unet), student)
    fusion.detach()
    assert torch.equal(
        predict(DeltaConvFusion.attach_saved(loaded, tmp_path, variant=variant) and loaded.unet), student
    )


def test_nothing_saved_beside_the_model(tmp_path: Path) -> None:
    tiny_sd_unet().save_pretrained(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(tmp_path)
    for model in (unet, tiny_sd_unet()):
        with pytest.raises(FileNotFoundError, match="path: no ΔConvBlocks beside the files of this UNet2DCond"):
            DeltaConvFusion.attach_saved(model)


def test_form_of_the_files_reaches_the_side_car(tmp_path: Path) -> None:
    unet = tiny_sd_unet()
    DeltaConvFusion.convert(unet, kernel_size=3)
    side_car = tmp_path / "deltaconv.fusion"
    unet.save_pretrained(tmp_path)
    unet.half().save_pretrained(tmp_path, variant="fp16")
    assert names(side_car) == ["config.json", "diffusion_pytorch_model.fp16.safetensors", WEIGHTS]
    for name, dtype in ((WEIGHTS, torch.float32), ("diffusion_pytorch_model.fp16.safetensors", torch.float16)):
        assert {tensor.dtype for tensor in load_file(side_car / name).values()} == {dtype}
    unet.save_pretrained(tmp_path / "old", safe_serialization=False)
    assert "diffusion_pytorch_model.bin" in names(tmp_path / "old" / "deltaconv.fusion")
    unet.save_pretrained(tmp_path / "old", max_shard_size="20KB")
    shards = [name for name in names(tmp_path / "old" / "deltaconv.fusion") if "-of-" in name]
    assert len(shards) > 1
    loaded = DeltaConvFusion.from_pretrained(tmp_path / "old" / "deltaconv.fusion", torch_dtype=torch.float16)
    assert torch.equal(loaded.blocks[MID].weight, DeltaConvFusion.attached_to(unet).blocks[MID].weight)


def test_saving_again_keeps_the_card_and_other_variants_of_the_same_layers(tmp_path: Path) -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3)
    fusion.save_pretrained(tmp_path / "fusion")
    (tmp_path / "fusion" / "README.md").write_text("trained on everything")
    fusion.save_pretrained(tmp_path / "fusion", variant="fp16")
    with torch.no_grad():
        fusion.blocks[MID].weight.fill_(7)
    fusion.save_pretrained(tmp_path / "fusion", variant="fp16")
    assert names(tmp_path / "fusion") == [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
        WEIGHTS,
    ]
    assert (tmp_path / "fusion" / "README.md").read_text() == "trained on everything"
    assert (DeltaConvFusion.from_pretrained(tmp_path / "fusion", variant="fp16").blocks[MID].weight == 7).all()
    loaded = DeltaConvFusion.from_pretrained(tmp_path / "fusion")
    assert not (loaded.blocks[MID].weight == 7).any()
    loaded.save_pretrained(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "README.md").read_text() == "trained on everything"
    other = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=5)
    other.save_pretrained(tmp_path / "fusion")
    assert names(tmp_path / "fusion") == ["config.json", WEIGHTS]


def test_another_models_folder_is_refused_by_its_class(tmp_path: Path) -> None:
    tiny_sd_unet().save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"path: expected the side-car of a DeltaConvFusion, got a UNet2DCond.* in "):
        DeltaConvFusion.from_pretrained(tmp_path / "unet")


def test_teacher_is_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    DeltaConvFusion.convert(tiny_sd_unet(seed=0), kernel_size=3).save_pretrained(tmp_path / "fusion")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        DeltaConvFusion.from_pretrained(tmp_path / "fusion").attach(tiny_sd_unet(seed=0).to(dtype))
    DeltaConvFusion.from_pretrained(tmp_path / "fusion").attach(
        UNet2DConditionModel(**dict(tiny_sd_unet().config)).to("meta")
    )
    assert not warnings_of(caplog)
    DeltaConvFusion.from_pretrained(tmp_path / "fusion").attach(tiny_sd_unet(seed=1))
    matrices = sum(parameter.dim() > 1 for parameter in tiny_sd_unet().parameters())
    assert f"made for a UNet2DConditionModel with other weights: of {matrices} weights that were " in caplog.text
    tuned = tiny_sd_unet(seed=0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1 + 1e-5)
    caplog.clear()
    DeltaConvFusion.from_pretrained(tmp_path / "fusion").attach(tuned)
    assert "with other weights" in caplog.text
    other = UNet2DConditionModel(**dict(tiny_sd_unet().config) | {"use_linear_projection": True})
    with pytest.raises(ValueError, match="another configuration: use_linear_projection is True, was False"):
        DeltaConvFusion.from_pretrained(tmp_path / "fusion").attach(other)
    assert DeltaConvFusion.attached_to(other) is None


def test_one_changed_matrix_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever it is, in a teacher of 16 bits as well, and named."""
    for dtype in (torch.float32, torch.float16):
        record = describe_teacher(tiny_sd_unet().to(dtype))
        unet = tiny_sd_unet()
        assert not differences_from(unet, record).weights
        for name, parameter in unet.named_parameters():
            if parameter.dim() > 1:
                before = parameter.data.clone()
                parameter.data.mul_(1.01)
                differences = differences_from(unet, record)
                assert differences.weights == [name]
                assert str(differences).endswith(f" 1 differ ({name}, …)")
                parameter.data.copy_(before)


def test_record_of_an_earlier_release_is_compared_as_far_as_it_goes() -> None:
    record = describe_teacher(tiny_sd_unet(seed=0))
    del record["trace"]
    assert not differences_from(tiny_sd_unet(seed=0), record).weights
    differences = differences_from(tiny_sd_unet(seed=1), record)
    assert differences.compared == len(record["fingerprint"]) == 32
    assert len(differences.weights) > 28


def test_record_survives_json_and_is_small() -> None:
    record = describe_teacher(tiny_sd_unet())
    assert json.loads(json.dumps(record)) == record
    matrices = sum(parameter.dim() > 1 for parameter in tiny_sd_unet().parameters())
    assert len(record["trace"]["values"]) == pytest.approx(16 * matrices, abs=4)  # 3 numbers of 4 bytes in base64


def test_side_car_without_a_record_attaches_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    DeltaConvFusion.convert(tiny_sd_unet(seed=0), kernel_size=3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["teacher"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    DeltaConvFusion.from_pretrained(tmp_path).attach(tiny_sd_unet(seed=1))
    assert not warnings_of(caplog)


@torch.no_grad()
def test_motion_models_from_a_converted_unet() -> None:
    unet = tiny_sd_unet()
    expected = {key: value.clone() for key, value in unet.state_dict().items()}
    DeltaConvFusion.convert(unet, kernel_size=3)
    adapter = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=2
    )
    motion = UNetMotionModel.from_unet2d(unet, adapter)
    state = motion.state_dict()
    assert not any("deltaconv" in key for key in state)
    assert torch.equal(state[f"{MID}.to_q.weight"], expected[f"{MID}.to_q.weight"])
    parts = {name: part for name, part in tiny_sd().components.items() if name not in ("unet", "safety_checker")}
    pipe = AnimateDiffPipeline(unet=unet, motion_adapter=adapter, **parts)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe("a cat", num_frames=2, num_inference_steps=1, height=16, width=16, output_type="pt").frames
    assert frames.shape[:2] == (1, 2)


def test_adapters_in_the_blocks_cannot_be_saved(tmp_path: Path) -> None:
    from peft import LoraConfig

    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    unet.add_adapter(LoraConfig(r=2, target_modules=["in_proj", "out_proj"]))
    with pytest.raises(ValueError, match=r"adapters are in the blocks \(.*in_proj.*merge them"):
        fusion.save_pretrained(tmp_path / "fusion")
    assert not (tmp_path / "fusion").exists()
    unet.fuse_lora()
    unet.unload_lora()
    fusion.save_pretrained(tmp_path / "fusion")
    assert DeltaConvFusion.from_pretrained(tmp_path / "fusion").blocks.keys() == fusion.blocks.keys()


def test_averages_of_a_fusion_can_be_saved(tmp_path: Path) -> None:
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3).detach()
    average = EMAModel(fusion.parameters(), model_cls=DeltaConvFusion, model_config=fusion.config)
    average.save_pretrained(tmp_path / "ema")
    assert torch.equal(DeltaConvFusion.from_pretrained(tmp_path / "ema").blocks[MID].weight, fusion.blocks[MID].weight)


@pytest.mark.parametrize("what", ["fusion", "denoiser"])
def test_an_upload_begins_with_the_whole_folder(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here reaches the hub: huggingface_hub's own refusal ends it after the files were written."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    unet = tiny_pixart_transformer()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3)
    with pytest.raises((OfflineModeIsEnabled, HfHubHTTPError)):
        (fusion if what == "fusion" else unet).save_pretrained(tmp_path / "mine", push_to_hub=True, token="hf_none")
    folder = tmp_path / "mine" / ("" if what == "fusion" else "deltaconv.fusion")
    assert names(folder) == ["config.json", WEIGHTS]


def test_repr_is_short() -> None:
    unet = tiny_sd_unet()
    fusion = DeltaConvFusion.convert(unet, kernel_size=3, only=["up_blocks.*", MID], exclude="up_blocks.0.*")
    assert repr(fusion).splitlines() == [
        "DeltaConvFusion for a UNet2DConditionModel, attached",
        "  blocks:       3; 4 self-attentions were excluded",
        f"  parameters:   {sum(parameter.numel() for parameter in fusion.parameters()):,}, torch.float32 on cpu",
        "  kernel sizes: 3 (x3); given",
        "  gate:         scaled, factors (1, 2)",
        "  fusion.report has every layer, parameters and FLOPs before and after",
    ]
    assert "not attached" in repr(fusion.detach())
