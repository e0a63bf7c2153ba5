import json
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
import torch
from deltaconv_distill.embedded import DEMO_PROMPTS, GUIDANCE_SCALE, STEPS, load_emoji, load_teacher, teacher_path
from diffusers import DDPMScheduler

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def emoji():
    return load_emoji()


@pytest.fixture(scope="module")
def teacher():
    pipe = load_teacher()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_images_and_captions(emoji):
    assert len(emoji) == 1413
    assert emoji.images.shape == (1413, 32, 32, 3)
    assert emoji.images.dtype == np.uint8
    assert len(set(emoji.captions)) == len(emoji.captions)
    assert all(caption == caption.lower().strip() != "" for caption in emoji.captions)
    assert emoji.codepoints == sorted(set(emoji.codepoints))


def test_images_match_their_captions(emoji):
    """A tile off by one in the sheet would show here."""
    centre = {caption: emoji.images[i, 12:20, 12:20].mean((0, 1)) for i, caption in enumerate(emoji.captions)}
    red, green, blue = (centre[f"large {colour} square"] for colour in ("red", "green", "blue"))
    assert [colour.argmax() for colour in (red, green, blue)] == [0, 1, 2]
    assert centre["black heart"].max() < 100
    assert (emoji.images[:, 0, 0] > 200).mean() > 0.9  # corners are background


def test_pictorial_subset(emoji):
    subset = load_emoji(pictorial_only=True)
    where = {caption: i for i, caption in enumerate(emoji.captions)}
    assert len(subset) == 398
    assert all(np.array_equal(subset.images[i], emoji.images[where[c]]) for i, c in enumerate(subset.captions))
    assert not {"heavy plus sign", "clock face one oclock"} & set(subset.captions)


def test_kinds_name_many_pictures():
    subset = load_emoji(pictorial_only=True)
    assert len(subset.kinds) == len(subset)
    assert {"fruit", "animal face", "vehicle", "heart"} <= set(subset.kinds)
    kind = dict(zip(subset.captions, subset.kinds, strict=True))
    expected = {"strawberry": "fruit", "panda face": "animal face", "fox face": "animal face", "taxi": "vehicle"}
    assert {caption: kind[caption] for caption in expected} == expected


def test_licence_and_source_are_shipped():
    data = files("deltaconv_distill.embedded") / "data"
    assert "SIL OPEN FONT LICENSE Version 1.1" in (data / "OFL.txt").read_text()
    source = json.loads((data / "emoji.json").read_text())
    assert "2.042" in source["font_version"]
    assert "OFL-1.1" in source["license"]


def test_teacher_is_small():
    assert sum(file.stat().st_size for file in teacher_path().rglob("*")) <= 10 * MEGABYTE


def test_teacher_has_its_training_record():
    record = json.loads((teacher_path() / "TRAINING.json").read_text())
    losses = [entry["loss"] for entry in record["denoiser"]["loss"]]
    assert record["denoiser"]["steps"] >= 1000
    assert losses[-1] < 0.5 * losses[0]


def test_self_attention_at_two_resolutions(teacher):
    shapes = []
    attentions = [module for name, module in teacher.unet.named_modules() if name.endswith("attn1")]
    hooks = [m.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[1:]))) for m in attentions]
    with torch.no_grad():
        teacher.unet(torch.zeros(1, 4, 16, 16), 10, torch.zeros(1, 16, teacher.unet.config.cross_attention_dim))
    for hook in hooks:
        hook.remove()
    assert Counter(shapes) == {(16 * 16, 64): 3, (8 * 8, 128): 4}


def test_prompts_are_captions_or_kinds():
    subset = load_emoji(pictorial_only=True)
    assert set(DEMO_PROMPTS) <= {*subset.captions, *subset.kinds}
    assert 12 <= len(DEMO_PROMPTS) <= 16


def test_autoencoder_keeps_the_picture(teacher):
    images = torch.from_numpy(load_emoji().images[::50]).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = teacher.vae.encode(images).latent_dist.mean
        decoded = teacher.vae.decode(latents).sample
    assert (decoded - images).abs().mean() < 0.06
    assert latents.mean((0, 2, 3)).abs().max() < 0.3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.3


@torch.no_grad()
def noise_error(teacher, images, captions):
    """Mean squared error of the predicted noise at fixed noise and times."""
    generator = torch.Generator().manual_seed(0)
    ids = teacher.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
    text = teacher.text_encoder(ids)[0]
    latents = teacher.vae.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    noise = torch.randn(latents.shape, generator=generator)
    t = torch.linspace(300, 900, len(latents)).long()
    # The sampler's own add_noise knows its few inference steps only.
    schedule = DDPMScheduler.from_config(teacher.scheduler.config)
    predicted = teacher.unet(schedule.add_noise(latents, noise, t), t, text).sample
    return (predicted - noise).square().mean().item()


def test_teacher_knows_which_picture_a_caption_means(teacher):
    data = load_emoji(pictorial_only=True)
    chosen = np.arange(0, len(data), 4)
    captions = [data.captions[i] for i in chosen]
    told = noise_error(teacher, data.images[chosen], captions)
    misled = noise_error(teacher, data.images[chosen], captions[1:] + captions[:1])
    assert told < 0.1  # predicting nothing scores 1
    assert misled > 1.5 * told


class NoAttention:
    """An attention processor that adds nothing."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        return torch.zeros_like(hidden_states)


def test_teacher_needs_its_self_attention(teacher):
    data = load_emoji(pictorial_only=True)
    chosen = np.arange(0, len(data), 4)
    kinds = [data.kinds[i] for i in chosen]
    whole = noise_error(teacher, data.images[chosen], kinds)
    processors = teacher.unet.attn_processors
    teacher.unet.set_attn_processor({k: NoAttention() if ".attn1." in k else v for k, v in processors.items()})
    try:
        without = noise_error(teacher, data.images[chosen], kinds)
    finally:
        teacher.unet.set_attn_processor(processors)
    assert without > 2 * whole


def test_samples_look_like_their_prompt(teacher):
    """The sample is nearer to the picture that its prompt names than to nearly all others."""
    data = load_emoji(pictorial_only=True)
    prompts = ["strawberry", "penguin", "tiger face", "sunflower", "hamburger", "guitar"]
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    samples = teacher(
        prompts, num_inference_steps=STEPS, guidance_scale=GUIDANCE_SCALE, generator=generators, output_type="np"
    ).images
    assert np.isfinite(samples).all()
    distance = np.square(samples[:, None] - data.images[None] / 255).mean((2, 3, 4))  # [prompts, emoji]
    ranks = [(distance[i] < distance[i, data.captions.index(prompt)]).sum() for i, prompt in enumerate(prompts)]
    assert np.median(ranks) == 0, dict(zip(prompts, ranks, strict=True))


def test_generation_is_deterministic(teacher):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return teacher("red apple", num_inference_steps=3, generator=generator, output_type="np").images

    assert np.array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))


def test_loads_in_another_dtype():
    assert load_teacher(torch.bfloat16).unet.dtype == torch.bfloat16
    assert load_teacher().unet.dtype == torch.float32
