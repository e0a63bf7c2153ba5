"""Generation beyond the training size: the plan and the stages."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.cli import main
from deltaconv_distill.embedded import load_teacher
from deltaconv_distill.generation import (
    Plan,
    generate_high_resolution,
    high_resolution,
    plan_generation,
)
from deltaconv_distill.generation import plan as planning
from deltaconv_distill.generation.image_to_image import denoise_from, encode, refine
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionControlNetPipeline,
)
from PIL import Image
from tiny_flow_pipelines import stable_diffusion_3
from tiny_pipelines import predict, tiny_controlnet, tiny_pixart, tiny_pixart_transformer, tiny_sd, tiny_sdxl

from deltaconv_kernels.testing import relative_error

PIPELINES = {"sd": tiny_sd, "sdxl": tiny_sdxl, "pixart": tiny_pixart}  # all for images of 16 x 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    ("size", "options", "sizes"),
    [
        ((16, 16), {}, [(16, 16)]),
        ((24, 24), {}, [(24, 24)]),  # 1.5 times the training size is still made in one go
        ((48, 16), {}, [(24, 8), (48, 16)]),
        ((64, 64), {}, [(16, 16), (64, 64)]),
        ((64, 64), {"base": (64, 64)}, [(64, 64)]),
        ((64, 64), {"base": (32, 24)}, [(32, 24), (64, 64)]),
        ((64, 64), {"largest_upscale": 2}, [(16, 16), (32, 32), (64, 64)]),
        ((16384, 16384), {}, [(16, 16), (64, 64), (256, 256), (1024, 1024), (4096, 4096), (16384, 16384)]),
    ],
    ids=str,
)
def test_stages(size: tuple[int, int], options: dict[str, Any], sizes: list[tuple[int, int]]) -> None:
    plan = plan_generation(tiny_sd(), *size, batch_guidance=True, **options)
    assert list(plan.sizes) == sizes


def test_stages_of_stable_diffusion_to_16384_pixels() -> None:
    pipe = tiny_sd()
    pipe.unet.register_to_config(sample_size=256)  # two pixels a latent one here: trained at 512
    sizes = plan_generation(pipe, 16384, 8192, batch_guidance=False).sizes
    assert sizes[0] == (728, 360)
    assert sizes[-1] == (16384, 8192)
    areas = [height * width for height, width in sizes]
    assert all(after <= 16.2 * before for before, after in pairwise(areas))


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((60, 64), {}, r"height: expected a multiple of 8 pixels, got 60"),
        ((64, 0), {}, r"width: expected a multiple of 8 pixels, got 0"),
        ((64, 64), {"base": (16, 12)}, r"base_width: expected a multiple of 8 pixels, got 12"),
        ((64, 64), {"base": (128, 64)}, r"base_height: expected at most the image's own 64 pixels, got 128"),
        ((64, 64), {"largest_upscale": 1}, r"largest_upscale: expected more than 1, got 1"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_made(size: tuple[int, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_generation(tiny_sd(), *size, **options)


@pytest.mark.parametrize("name", PIPELINES)
def test_two_stages_with_a_converted_pipeline(name: str) -> None:
    """Of the size asked for; by the first stage's picture and the seed; by the blocks, not by self-attention."""
    pipe = quiet(PIPELINES[name]())
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)

    def generate(seed: int = 0, **options: Any) -> np.ndarray:
        images = generate_high_resolution(
            pipe, "a cat", 32, 64, num_inference_steps=4, generator=seeded(seed), **options
        )
        assert [image.size for image in images] == [(64, 32)]
        return pixels(images[0])

    first = generate()
    assert (first == generate()).all()
    assert (first != generate(seed=1)).any()
    assert (first != generate(strength=1.0)).any()
    with fusion.teacher():
        assert (first != generate()).any()


@pytest.mark.parametrize("name", PIPELINES)
def test_weak_refinement_keeps_the_first_stage(name: str) -> None:
    """The weaker, the nearer to the enlarged picture (as far as this autoencoder keeps it): the stages are chained."""
    pipe = quiet(PIPELINES[name]())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    latents = encode(pipe, [image], seeded())

    def distance(strength: float) -> float:
        generator = seeded(1)
        if name == "pixart":
            options: dict[str, Any] = {"use_resolution_binning": False, "output_type": "latent"}
        else:
            options = {"output_type": "latent"}
        result = refine(pipe, "a cat", [image], strength, 20, generator, guidance_scale=1.0, **options)
        return relative_error(result, latents)

    assert distance(0.05) < 0.5 * distance(1.0)


@pytest.mark.parametrize(("steps", "strength", "guidance"), [(3, 0.01, 5.0), (1, 0.4, 0.0), (2, 0.9, 5.0)])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_later_stage_runs_at_least_one_step(name: str, steps: int, strength: float, guidance: float) -> None:
    """Also of models that need one step (Turbo), whose only step would keep nothing of the first stage."""
    pipe = quiet(PIPELINES[name]())
    calls: list[float] = []
    denoiser = pipe.transformer if name == "pixart" else pipe.unet
    denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(float((kwargs["timestep"] if name == "pixart" else args[1]).max())),
        with_kwargs=True,
    )
    options: dict[str, Any] = {"strength": strength, "num_inference_steps": steps, "guidance_scale": guidance}
    image = generate_high_resolution(pipe, "a cat", 32, 32, **options)[0]
    assert image.size == (32, 32)
    assert len(calls) == steps + 1
    assert calls[-1] <= 1000 * strength + 1


HEUN = {"beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.mark.parametrize(("strength", "calls"), [(0.5, 3 + 2), (1.0, 6 + 5)])
def test_second_order_scheduler_is_given_each_timestep_once(strength: float, calls: int) -> None:
    """A call for each step, and one more for each but the last."""
    pipe = quiet(tiny_pixart())
    pipe.scheduler = HeunDiscreteScheduler(**HEUN)
    counted: list[int] = []
    pipe.transformer.register_forward_pre_hook(lambda *_: counted.append(1))
    image = generate_high_resolution(pipe, "a cat", 32, 48, num_inference_steps=6, strength=strength)[0]
    assert image.size == (48, 32)
    assert len(counted) == 6 + 5 + calls


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
def test_pixart_s_way_is_that_of_diffusers(scheduler: type) -> None:
    """From the same latents and noise, on a model for which diffusers has an image-to-image pipeline."""
    pipe = quiet(tiny_sd())
    pipe.scheduler = scheduler(beta_schedule="scaled_linear", steps_offset=1)
    latents = torch.randn(2, 4, 12, 8, generator=seeded())
    options: dict[str, Any] = {"guidance_scale": 3.0, "negative_prompt": ["dog", ""], "output_type": "latent"}
    ours = denoise_from(pipe, ["a cat", "sun"], latents, 0.6, 5, seeded(7), **options)
    theirs = refine(pipe, ["a cat", "sun"], latents.split(1), 0.6, 5, seeded(7), **options)
    assert relative_error(ours, theirs) <= 1e-6


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler(), "expected a scheduler that takes timesteps, .* got DDIMScheduler"),
        (EulerDiscreteScheduler(use_karras_sigmas=True), "EulerDiscreteScheduler, as configured, cannot denoise from"),
    ],
    ids=["no timesteps", "not with Karras sigmas"],
)
def test_scheduler_that_cannot_start_late_is_refused_before_the_first_step(scheduler: Any, message: str) -> None:
    pipe = quiet(tiny_pixart())
    pipe.scheduler = scheduler
    pipe.transformer.register_forward_pre_hook(lambda *_: pytest.fail("the denoiser ran"))
    with pytest.raises(ValueError, match=f"pipe: {message}"):
        generate_high_resolution(pipe, "a cat", 32, 32, num_inference_steps=2)


def test_latents_that_patches_do_not_cover_are_refused() -> None:
    transformer = tiny_pixart_transformer()
    DeltaConvFusion.convert(transformer, kernel_size=3)
    with pytest.raises(ValueError, match=r"multiples of 2, the patch size, got 8 x 9"):
        predict(transformer, 8, 9)


def test_images_too_small_for_the_blocks_are_refused_before_the_first_step() -> None:
    pipe = quiet(tiny_sd())
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3, factors=(1, 4))
    with pytest.raises(ValueError, match="width: expected at least 14 pixels for this model's ΔConvBlocks, got 8"):
        generate_high_resolution(pipe, "a cat", 16, 8)
    with pytest.raises(
        ValueError, match="hidden_states: 2 x 2 tokens are too few for ΔConvBlocks that reduce them by 4"
    ):
        predict(pipe.unet, 4, 4)
    assert predict(pipe.unet, 7, 7).shape == (2, 4, 7, 7)
    with fusion.teacher():
        assert generate_high_resolution(pipe, "a cat", 16, 8, num_inference_steps=1)[0].size == (8, 16)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strength": 0.0}, ValueError, "strength: expected more than 0 and at most 1, got 0"),
        ({"strength": 1.5}, ValueError, "strength: expected more than 0 and at most 1, got 1.5"),
        ({"plan": Plan(((8, 8),), False, True)}, ValueError, "plan: expected one for 64 x 64 pixels"),
    ],
    ids=str,
)
def test_mistakes_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        generate_high_resolution(tiny_sd(), "a cat", 64, 64, **options)


def test_stable_diffusion_3_makes_one_stage_and_refuses_two():
    pipe = quiet(stable_diffusion_3())
    options = {"num_inference_steps": 2, "guidance_scale": 3.0}
    image = generate_high_resolution(pipe, "sun", 16, 24, generator=seeded(), **options)[0]
    own = pipe("sun", height=16, width=24, generator=seeded(), **options).images[0]
    assert np.array_equal(pixels(image), pixels(own))
    with pytest.raises(ValueError, match=r"plan: StableDiffusion3Pipeline makes images in one stage, got 16 x 16"):
        generate_high_resolution(pipe, "sun", 64, 64, **options)


def test_other_pipelines_are_refused() -> None:
    pipe = StableDiffusionControlNetPipeline.from_pipe(tiny_sd(), controlnet=tiny_controlnet())
    with pytest.raises(TypeError, match=r"pipe: expected a StableDiffusion, .* got StableDiffusionControlNetPipeline"):
        generate_high_resolution(pipe, "a cat", 64, 64)


@pytest.mark.parametrize("name", PIPELINES)
def test_guidance_without_its_batch_gives_the_same_picture(name: str) -> None:
    pipe = quiet(PIPELINES[name]())
    DeltaConvFusion.convert(pipe, kernel_size=3)
    images = []
    for batch_guidance in (True, False):
        plan = plan_generation(pipe, 32, 32, batch_guidance=batch_guidance)
        images += generate_high_resolution(
            pipe, "a cat", 32, 32, num_inference_steps=3, generator=seeded(), plan=plan, negative_prompt="dog"
        )
    assert abs(pixels(images[0]) - pixels(images[1])).max() <= 1


def test_guidance_without_its_batch_on_a_compiled_denoiser() -> None:
    """It is the compiled form that the pipeline calls."""
    torch.compiler.reset()
    pipe = quiet(tiny_pixart())
    batches: list[int] = []
    pipe.transformer.pos_embed.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    plan = plan_generation(pipe, 16, 16, batch_guidance=False)
    generate_high_resolution(pipe, "a cat", 16, 16, num_inference_steps=2, plan=plan)
    assert set(batches) == {1}


def test_autoencoder_works_in_tiles_from_a_size_on_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = quiet(tiny_sd())
    monkeypatch.setattr(planning, "LARGEST_UNTILED", 64)
    monkeypatch.setattr(high_resolution, "SMALLEST_TILE", 48)
    before = dict(vars(pipe.vae))
    largest: list[int] = []
    decode = pipe.vae.decoder.forward
    monkeypatch.setattr(pipe.vae.decoder, "forward", lambda z: largest.append(max(z.shape[-2:])) or decode(z))
    for size, tiled in ((64, False), (96, True)):
        largest.clear()
        plan = plan_generation(pipe, size, size, batch_guidance=True)
        assert plan.tiled == tiled
        image = generate_high_resolution(pipe, ["a", "b"], size, size, num_inference_steps=3, plan=plan)[1]
        assert image.size == (size, size)
        assert max(largest) == (24 if tiled else size // 2)
    assert {name: value for name, value in vars(pipe.vae).items() if name in before} == before


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    tiny_sd().save_pretrained(path)
    return str(path)


def test_command(model: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", "--model", model, "--prompt", "sun", "--num_inference_steps", "3", "--output", str(tmp_path)]
    assert main([*arguments, "--height", "32", "--width", "48", "--batch_guidance", "off", "--dtype", "bfloat16"]) == 0
    assert "16 x 16, then 48 x 32 pixels; one sample at a time in the denoiser" in capsys.readouterr().out
    assert Image.open(tmp_path / "000-sun-0.png").size == (48, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--height", "64", "--width", "64", "--base_height", "16"], "--base_height, --base_width: expected both"),
        (["--base_height", "16", "--base_width", "16"], "--base_height, --base_width: expected --height and --width"),
        (["--height", "64", "--width", "60"], "--width: expected a multiple of 8 pixels, got 60"),
        (["--height", "64", "--width", "64", "--strength", "2"], "--strength: expected more than 0 and at most 1"),
        (["--device", "cuda:99"], "--device: cannot use 'cuda:99'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_command_explains_mistakes(
    model: str, arguments: list[str], message: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "--model", model, "--prompt", "x", "--output", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_embedded_teacher_draws_beyond_its_size(tmp_path: Any) -> None:
    """The same picture as at its own size, larger: most of what the first stage drew survives the second."""
    arguments = ["sample", "--prompt", "strawberry", "--num_inference_steps", "12", "--guidance_scale", "2.5"]
    assert main([*arguments, "--output", str(tmp_path / "small")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "large"), "--height", "64", "--width", "64"]) == 0
    small, large = (Image.open(tmp_path / name / "000-strawberry-0.png") for name in ("small", "large"))
    assert (small.size, large.size) == ((32, 32), (64, 64))
    reduced = pixels(large.resize((32, 32), Image.Resampling.LANCZOS))
    assert np.corrcoef(pixels(small).ravel(), reduced.ravel())[0, 1] > 0.7


def test_example_in_docs_runs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"pipe": quiet(load_teacher())}
    exec(compile(example, "docs/models.md", "exec"), names)
    assert names["image"].size == (96, 64)
    assert str(names["plan"]).startswith("40 x 24, then 96 x 64 pixels")
