"""Pipelines of the families beyond Stable Diffusion and PixArt, tiny, with blocks in the place of self-attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import Generation, ablate_windows, analyze, write_report
from deltaconv_distill.cli.main import main
from deltaconv_distill.distillation.task import DenoisingTask
from diffusers import (
    AnimateDiffPipeline,
    AuraFlowPipeline,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLTemporalDecoder,
    ChromaPipeline,
    CogView4Pipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    DiffusionPipeline,
    DiTPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    FluxPipeline,
    HunyuanDiTPipeline,
    I2VGenXLPipeline,
    Kandinsky3Pipeline,
    KandinskyV22Pipeline,
    LattePipeline,
    Lumina2Pipeline,
    LuminaPipeline,
    MotionAdapter,
    QwenImagePipeline,
    StableCascadePriorPipeline,
    StableDiffusion3Pipeline,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    VQModel,
    ZImagePipeline,
)
from PIL import Image
from tiny_denoisers import FRAMES, make_tiny
from tiny_flow_pipelines import flux, stable_diffusion_3
from tiny_pipelines import TEXT_LENGTH, tiny_pixart, tiny_sd, tiny_sdxl
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

SMALL = {"height": 16, "width": 16, "max_sequence_length": TEXT_LENGTH}


def images(pipe: DiffusionPipeline) -> np.ndarray:
    """Of two steps, with each pipeline's own arguments."""
    options: dict = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "np"}
    pipe.set_progress_bar_config(disable=True)
    if isinstance(pipe, DiTPipeline):
        return pipe(class_labels=[1, 2], **options).images
    if isinstance(pipe, DDPMPipeline):
        return pipe(batch_size=1, **options).images
    if isinstance(pipe, (StableDiffusion3Pipeline, FluxPipeline, ChromaPipeline)):
        return pipe("a cat", height=16, width=32, max_sequence_length=TEXT_LENGTH, **options).images
    if isinstance(pipe, QwenImagePipeline):
        options |= {"prompt_embeds": torch.ones(1, 3, 32), "prompt_embeds_mask": torch.ones(1, 3, dtype=torch.long)}
        return pipe(height=16, width=32, **options).images
    if isinstance(pipe, Flux2KleinPipeline):
        return pipe(height=32, width=64, **embeddings(32), **options).images
    if isinstance(pipe, ZImagePipeline):
        # both in one batch, of which the negative one is shorter and masked
        texts = {"prompt_embeds": [torch.ones(33, 32)], "negative_prompt_embeds": [torch.zeros(3, 32)]}
        return pipe("", height=16, width=32, **texts, **options).images
    if isinstance(pipe, Lumina2Pipeline):
        masks = {"prompt_attention_mask": torch.ones(1, 3), "negative_prompt_attention_mask": torch.ones(1, 3)}
        masks = {name: mask.bool() for name, mask in masks.items()}
        return pipe(height=64, width=128, **embeddings(32), **masks, **options).images
    if isinstance(pipe, AuraFlowPipeline):
        masks = {"prompt_attention_mask": torch.ones(1, 3), "negative_prompt_attention_mask": torch.ones(1, 3)}
        return pipe(height=16, width=32, **embeddings(32), **masks, **options).images
    if isinstance(pipe, HunyuanDiTPipeline):
        texts: dict = {}
        for which in ("", "_2"):
            texts |= {f"prompt_embeds{which}": torch.ones(1, 4, 32), f"prompt_attention_mask{which}": torch.ones(1, 4)}
        texts |= {f"negative_{name}": torch.zeros_like(given) for name, given in texts.items()}
        return pipe(height=64, width=128, use_resolution_binning=False, **texts, **options).images
    if isinstance(pipe, KandinskyV22Pipeline):
        return pipe(torch.ones(1, 16), torch.zeros(1, 16), height=128, width=192, **options).images
    if isinstance(pipe, StableCascadePriorPipeline):
        return pipe("a cat", height=256, width=384, **options).image_embeddings
    if isinstance(pipe, LuminaPipeline):
        masks = {"prompt_attention_mask": torch.ones(1, 3), "negative_prompt_attention_mask": torch.ones(1, 3)}
        # twice the size that the tiny model takes for its own: its positions and its softmax change with that
        return pipe(height=32, width=64, **embeddings(32), **masks, **options).images
    if isinstance(pipe, Kandinsky3Pipeline):
        masks = {"attention_mask": torch.ones(1, 3), "negative_attention_mask": torch.ones(1, 3)}
        return pipe(height=64, width=128, **embeddings(16), **masks, **options).images
    if isinstance(pipe, CogView4Pipeline):
        return pipe(height=16, width=32, **embeddings(32), **options).images
    if isinstance(pipe, TextToVideoSDPipeline):
        return pipe(height=16, width=16, num_frames=2, **embeddings(16), **options).frames
    if isinstance(pipe, StableVideoDiffusionPipeline):
        return pipe(torch.zeros(1, 3, 32, 32), height=16, width=32, num_frames=2, **options).frames
    if isinstance(pipe, I2VGenXLPipeline):
        picture = Image.new("RGB", (32, 16), "red")
        torch.manual_seed(0)  # its latents of the picture are drawn without the generator
        return pipe(None, picture, height=16, width=32, num_frames=2, **embeddings(16), **options).frames
    if isinstance(pipe, LattePipeline):
        return pipe("a cat", height=16, width=16, video_length=FRAMES, clean_caption=False, **options).frames
    return pipe("a cat", height=16, width=16, num_frames=2, **options).frames


def embeddings(width: int) -> dict[str, torch.Tensor]:
    """Of a prompt and none, for pipelines without their text encoder."""
    return {"prompt_embeds": torch.ones(1, 3, width), "negative_prompt_embeds": torch.zeros(1, 3, width)}


def dit() -> DiTPipeline:
    return DiTPipeline(transformer=make_tiny("dit"), vae=tiny_sd().vae, scheduler=DDIMScheduler())


def ddpm() -> DDPMPipeline:
    return DDPMPipeline(unet=make_tiny("ddpm"), scheduler=DDPMScheduler())


def animate_diff() -> AnimateDiffPipeline:
    sd = tiny_sd()
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8
    )
    return AnimateDiffPipeline(
        vae=sd.vae,
        text_encoder=sd.text_encoder,
        tokenizer=sd.tokenizer,
        unet=sd.unet,
        motion_adapter=adapter,
        scheduler=sd.scheduler,
    )


def qwen_image() -> QwenImagePipeline:
    """Without its text encoder: prompts are given as embeddings."""
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return QwenImagePipeline(
        transformer=make_tiny("qwen"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
    )


def flux2_klein() -> Flux2KleinPipeline:
    torch.manual_seed(0)
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
    )
    return Flux2KleinPipeline(
        transformer=make_tiny("flux2"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
    )


def cogview4() -> CogView4Pipeline:
    return CogView4Pipeline(
        transformer=make_tiny("cogview4"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_sd().vae,
        text_encoder=None,
        tokenizer=None,
    )


def model_scope() -> TextToVideoSDPipeline:
    sd = tiny_sd()
    return TextToVideoSDPipeline(
        unet=make_tiny("video"), vae=sd.vae, text_encoder=None, tokenizer=None, scheduler=sd.scheduler
    )


def hunyuan_dit() -> HunyuanDiTPipeline:
    vae = AutoencoderKL(  # by a factor of 8, which the pipeline takes for granted
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    return HunyuanDiTPipeline(
        transformer=make_tiny("hunyuan-dit"),
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
        scheduler=DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def movq() -> VQModel:
    """The autoencoder of Kandinsky's pipelines, by a factor of 8."""
    torch.manual_seed(0)
    vae = VQModel(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        num_vq_embeddings=8,
    )
    return vae.eval()


def kandinsky3() -> Kandinsky3Pipeline:
    return Kandinsky3Pipeline(
        tokenizer=None, text_encoder=None, unet=make_tiny("kandinsky3"), scheduler=DDPMScheduler(), movq=movq()
    )


def kandinsky22() -> KandinskyV22Pipeline:
    return KandinskyV22Pipeline(unet=make_tiny("kandinsky2.2"), scheduler=DDPMScheduler(), movq=movq())


def stable_cascade() -> StableCascadePriorPipeline:
    sdxl = tiny_sdxl()
    return StableCascadePriorPipeline(
        tokenizer=sdxl.tokenizer_2,
        text_encoder=sdxl.text_encoder_2,
        prior=make_tiny("cascade"),
        scheduler=DDPMWuerstchenScheduler(),
    )


def lumina() -> LuminaPipeline:
    return LuminaPipeline(
        transformer=make_tiny("lumina-next"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_sd().vae,
        text_encoder=None,
        tokenizer=None,
    )


def lumina2() -> Lumina2Pipeline:
    vae = tiny_sd().vae
    vae.register_to_config(shift_factor=0.0)
    return Lumina2Pipeline(
        transformer=make_tiny("lumina2"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
    )


def z_image() -> ZImagePipeline:
    vae = tiny_sd().vae
    vae.register_to_config(shift_factor=0.0)
    return ZImagePipeline(
        transformer=make_tiny("z-image"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
    )


def vision(width: int) -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=width,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=32,
    )
    return CLIPVisionModelWithProjection(config).eval()


def i2vgen_xl() -> I2VGenXLPipeline:
    sd = tiny_sd()
    return I2VGenXLPipeline(
        unet=make_tiny("i2vgen-xl"),
        vae=sd.vae,
        text_encoder=sd.text_encoder,
        tokenizer=sd.tokenizer,
        image_encoder=vision(16),
        feature_extractor=CLIPImageProcessor(crop_size=32, size=32),
        scheduler=sd.scheduler,
    )


def stable_video_diffusion() -> StableVideoDiffusionPipeline:
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    )
    return StableVideoDiffusionPipeline(
        unet=make_tiny("svd"),
        vae=vae.eval(),
        image_encoder=vision(32),
        scheduler=EulerDiscreteScheduler(prediction_type="v_prediction"),
        feature_extractor=CLIPImageProcessor(crop_size=32, size=32),
    )


def latte() -> LattePipeline:
    pixart = tiny_pixart()
    return LattePipeline(
        transformer=make_tiny("latte"),
        vae=tiny_sd().vae,
        text_encoder=pixart.text_encoder,
        tokenizer=pixart.tokenizer,
        scheduler=DDIMScheduler(),
    )


def aura_flow() -> AuraFlowPipeline:
    return AuraFlowPipeline(
        transformer=make_tiny("auraflow"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_sd().vae,
        text_encoder=None,
        tokenizer=None,
    )


def chroma() -> ChromaPipeline:
    pixart, vae = tiny_pixart(), tiny_sd().vae
    vae.register_to_config(shift_factor=0.0)
    return ChromaPipeline(
        transformer=make_tiny("chroma"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=pixart.text_encoder,
        tokenizer=pixart.tokenizer,
    )


PIPELINES = [
    dit,
    ddpm,
    animate_diff,
    stable_diffusion_3,
    flux,
    flux2_klein,
    qwen_image,
    cogview4,
    model_scope,
    stable_video_diffusion,
    i2vgen_xl,
    latte,
    hunyuan_dit,
    kandinsky3,
    kandinsky22,
    stable_cascade,
    lumina,
    lumina2,
    z_image,
    aura_flow,
    chroma,
]


@pytest.mark.parametrize("make", PIPELINES)
def test_pipelines_run(make) -> None:
    pipe = make()
    before = images(pipe)
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3, init="random")
    student = images(pipe)
    assert student.shape == before.shape
    assert np.isfinite(student).all()
    assert not np.allclose(student, before, atol=1e-3)
    fusion.detach()
    np.testing.assert_allclose(images(pipe), before, atol=1e-5)


def test_attention_along_time_is_left_alone_and_said() -> None:
    pipe = animate_diff()
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    assert not any("motion_modules" in layer for layer in fusion.blocks)
    skipped = fusion.report.skipped
    assert set(skipped.values()) == {"it attends along time"}
    assert all("motion_modules" in layer for layer in skipped)


@pytest.mark.parametrize("make", [stable_diffusion_3, flux])
def test_joint_attention_is_analysed_as_any_other(make, tmp_path: Path) -> None:
    pipe = make()
    generation = Generation(["a cat"], timesteps=(900, 100), num_inference_steps=3, options=SMALL)
    profile = analyze(pipe, generation, progress=False)
    sizes = dict.fromkeys(profile.layers, 3)
    profile.ablation = ablate_windows(pipe, generation, sizes, progress=False)
    assert list(profile.layers) == DeltaConvFusion.layers_of(pipe)
    joint = [layer for name, layer in profile.layers.items() if not name.endswith("attn2")]
    assert all(layer.grid == (4, 4) and len(layer.timesteps) == 2 for layer in joint)
    assert all(((share > 0) & (share < 1)).all() for share in (layer.text_share for layer in joint))
    page = write_report(profile, tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("% to the text</small>") == len(joint)
    fusion = DeltaConvFusion.convert(pipe, kernel_size=profile)
    for name, layer in profile.layers.items():
        if layer.text_share is not None:
            torch.testing.assert_close(fusion.blocks[name].text_share.weight, layer.text_share)


def test_training_of_other_joint_attention_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"pipe: expected one with a UNet2DConditionModel, .* or Flux.* to train blocks"
    ):
        DenoisingTask(qwen_image())
    with pytest.raises(TypeError, match=r"that gets its text as it is .* encoder_hid_dim_type='image_proj'"):
        DenoisingTask(kandinsky22())


def test_flops_of_a_pipeline_whose_autoencoder_is_a_movq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kandinsky22().save_pretrained(tmp_path)
    assert main(["flops", "--model", str(tmp_path), "--kernel_size", "3", "--sizes", "64,128"]) == 0
    assert "4 self-attentions" in capsys.readouterr().out
