"""The second embedded teacher: small, recorded, knows its captions, falls apart without image-to-image attention."""

import json

import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.distillation import Batch, DenoisingTask, PipelineEncoder
from deltaconv_distill.embedded import (
    DEMO_PROMPTS,
    JOINT_GUIDANCE_SCALE,
    STEPS,
    joint_teacher_path,
    load_emoji,
    load_joint_teacher,
    load_teacher,
)
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def teacher():
    pipe = load_joint_teacher()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def data():
    return load_emoji(pictorial_only=True)


def test_it_is_small_and_has_its_training_record():
    files = [path for path in joint_teacher_path().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10 * MEGABYTE
    record = json.loads((joint_teacher_path() / "TRAINING.json").read_text())
    losses = [entry["loss"] for entry in record["denoiser"]["loss"]]
    assert record["denoiser"]["steps"] >= 1000
    assert losses[-1] < 0.5 * losses[0]


def test_autoencoder_and_tokenizer_are_the_first_teachers(teacher):
    first = load_teacher()
    for name, weight in first.vae.state_dict().items():
        assert torch.equal(weight, teacher.vae.state_dict()[name]), name
    text = ["strawberry", "tiger face"]
    for tokenizer in (teacher.tokenizer, teacher.tokenizer_2):
        assert tokenizer(text).input_ids == first.tokenizer(text).input_ids


@torch.no_grad()
def velocity_error(teacher, data, captions, run=DenoisingTask.predict):
    """Mean squared error of the predicted velocity at fixed noise and times, of every fourth picture."""
    chosen = np.arange(0, len(data), 4)
    task, encoder = DenoisingTask(teacher), PipelineEncoder(teacher)
    pixels = torch.from_numpy(data.images[chosen]).permute(0, 3, 1, 2) / 127.5 - 1
    latents = encoder.moments(pixels).mean
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(200, 900, len(latents))
    batch = Batch(latents, noise, times, encoder.conditioning([captions[index] for index in chosen]))
    return (run(task, batch) - task.target(batch)).square().mean().item()


def test_it_knows_which_picture_a_caption_means(teacher, data):
    told = velocity_error(teacher, data, data.captions)
    misled = velocity_error(teacher, data, [*data.captions[4:], *data.captions[:4]])
    assert told < 0.5  # predicting nothing scores 2
    assert misled > 1.1 * told


def test_it_needs_its_image_to_image_attention(teacher, data):
    whole = velocity_error(teacher, data, data.kinds)
    fusion = DeltaConvFusion.convert(teacher, kernel_size=3)
    try:
        with fusion.ablate("removed"):
            without = velocity_error(teacher, data, data.kinds)
    finally:
        fusion.detach()
    assert without > 2 * whole


def test_samples_look_like_their_kind(teacher, data):
    """The nearest real picture to most samples is of the kind that the prompt named."""
    prompts = [prompt for prompt in DEMO_PROMPTS if prompt in data.kinds]
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    samples = teacher(
        prompts, num_inference_steps=STEPS, guidance_scale=JOINT_GUIDANCE_SCALE, generator=generators, output_type="np"
    ).images
    assert np.isfinite(samples).all()
    distance = np.square(samples[:, None] - data.images[None] / 255).mean((2, 3, 4))  # [prompts, emoji]
    nearest = [data.kinds[index] for index in distance.argmin(1)]
    assert sum(kind == prompt for kind, prompt in zip(nearest, prompts, strict=True)) >= len(prompts) // 2, nearest


def test_diffusers_opens_it_by_itself(teacher):
    alone = DiffusionPipeline.from_pretrained(joint_teacher_path(), text_encoder_3=None, tokenizer_3=None)
    assert type(alone) is StableDiffusion3Pipeline
    for name, weight in alone.transformer.state_dict().items():
        assert torch.equal(weight, teacher.transformer.state_dict()[name]), name


def test_prompts_are_encoded_without_t5(teacher):
    embeddings, _, pooled, _ = teacher.encode_prompt("sun", None, None, max_sequence_length=256)
    assert embeddings.shape == (1, 16, 128)
    assert pooled.shape == (1, 128)
