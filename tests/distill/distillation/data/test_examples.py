"""Examples: what folders are read, what is wrong with others, and the stream's order, noise and caption dropout."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from deltaconv_distill.distillation import (
    CachedExamples,
    DataError,
    EmojiImages,
    EncodedOnTheFly,
    ExampleStream,
    ImageFolder,
    PipelineEncoder,
)
from deltaconv_distill.distillation.data.batches import Draws
from deltaconv_distill.embedded import load_emoji
from diffusers import DDIMScheduler, PixArtSigmaPipeline, StableDiffusionInpaintPipeline
from distilling import CAPTIONS, RandomImages
from PIL import Image
from tiny_pipelines import tiny_pixart, tiny_sd, tiny_sdxl


@pytest.fixture(scope="module")
def examples() -> CachedExamples:
    return CachedExamples(RandomImages(), PipelineEncoder(tiny_sd()))


def make_stream(examples, batch_size=2, seed=0, empty=0.0) -> ExampleStream:
    return ExampleStream(examples, batch_size, Draws(seed, num_timesteps=1000, proportion_empty_prompts=empty))


def test_every_epoch_shows_each_example_once_in_another_order(examples):
    stream = make_stream(examples)
    epochs = [[stream.index(5 * epoch + offset) for offset in range(5)] for epoch in range(6)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_an_example_depends_on_seed_and_position_alone(examples):
    small, large = make_stream(examples, batch_size=2), make_stream(examples, batch_size=4)
    parts = [small.batch(6), small.batch(8)]
    whole = large.batch(6)  # straddles two epochs
    for name in ("latents", "noise", "timesteps"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    embeddings = torch.cat([part.conditioning["encoder_hidden_states"] for part in parts])
    assert torch.equal(embeddings, whole.conditioning["encoder_hidden_states"])
    assert not torch.equal(make_stream(examples, 4, seed=1).batch(6).noise, whole.noise)


def test_draws_are_what_they_should_be(examples):
    batch = make_stream(examples, batch_size=400).batch(0)
    assert batch.noise.mean().abs() < 0.02
    assert batch.noise.std() == pytest.approx(1, abs=0.02)
    assert 0 <= batch.timesteps.min() < 20
    assert 980 < batch.timesteps.max() < 1000


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_captions_are_dropped_at_their_share(examples, share):
    empty = examples.conditioning([""])["encoder_hidden_states"][0]
    embeddings = make_stream(examples, batch_size=400, empty=share).batch(0).conditioning["encoder_hidden_states"]
    dropped = (embeddings == empty).all(dim=(1, 2)).float().mean().item()
    assert dropped == pytest.approx(share, abs=0.07 if 0 < share < 1 else 0)


def test_cached_examples_equal_those_encoded_on_the_fly(examples):
    fresh = EncodedOnTheFly(RandomImages(), PipelineEncoder(tiny_sd()))
    torch.testing.assert_close(examples.moments([3, 0]).mean, fresh.moments([3, 0]).mean)
    torch.testing.assert_close(examples.moments([3, 0]).std, fresh.moments([3, 0]).std)
    captions = [CAPTIONS[2], "", CAPTIONS[0]]
    torch.testing.assert_close(examples.conditioning(captions), fresh.conditioning(captions))


@pytest.mark.parametrize("normalised", [False, True], ids=["scaled", "normalised"])
@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_pixart], ids=["sd", "sdxl", "pixart"])
def test_latents_are_what_the_pipeline_decodes(make, normalised):
    pipe = make()
    if normalised:  # as Playground v2.5's VAE; of these pipelines SDXL's alone reads it
        pipe.vae.register_to_config(latents_mean=[-1.6, 1.1, 3.3, -0.8], latents_std=[8.4, 5.9, 9.2, 5.2])
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = PipelineEncoder(pipe).moments(image)
    with torch.no_grad():
        posterior = pipe.vae.encode(image).latent_dist
    torch.testing.assert_close(_decoded(pipe, latents.mean), posterior.mode(), rtol=1e-4, atol=1e-5)
    shifted = _decoded(pipe, latents.mean + latents.std)
    torch.testing.assert_close(shifted, posterior.mode() + posterior.std, rtol=1e-4, atol=1e-5)


def test_noise_offset_shifts_whole_channels(examples):
    plain = ExampleStream(examples, 200, Draws(0, 1000)).batch(0)
    offset = ExampleStream(examples, 200, Draws(0, 1000, noise_offset=0.5)).batch(0)
    difference = offset.noise - plain.noise
    torch.testing.assert_close(difference, difference[..., :1, :1].expand_as(difference))
    assert difference[..., 0, 0].std() == pytest.approx(0.5, rel=0.1)
    assert torch.equal(offset.latents, plain.latents)
    assert torch.equal(offset.timesteps, plain.timesteps)


def test_another_family_of_pipelines_is_an_error():
    pipe = tiny_sd()
    other = StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(TypeError, match=r"pipe: expected one of StableDiffusionPipeline.*got StableDiffusionInpaint"):
        PipelineEncoder(other)


def test_the_embedded_emoji_come_under_their_names_and_their_kinds():
    images, emoji = EmojiImages(), load_emoji(pictorial_only=True)
    count = len(emoji)
    assert len(images) == len(images.captions) == 2 * count
    assert (images.captions[3], images.captions[3 + count]) == (emoji.captions[3], emoji.kinds[3])
    assert torch.equal(images.image(3), images.image(3 + count))
    assert images.image(3).shape == (3, 32, 32)
    assert images.image(3).dtype == torch.uint8


@pytest.mark.parametrize("metadata", ["jsonl", "csv", "txt"])
def test_a_folder_of_captioned_images(tmp_path, metadata):
    _write_folder(tmp_path, metadata)
    folder = ImageFolder(tmp_path, resolution=8)
    assert Counter(folder.captions) == Counter(["wide, red", "tall blue"])
    wide, tall = (folder.image(list(folder.captions).index(caption)) for caption in ("wide, red", "tall blue"))
    assert wide.shape == tall.shape == (3, 8, 8)
    assert wide.float().mean((1, 2)).tolist() == pytest.approx([255, 0, 0], abs=1)
    assert tall.float().mean((1, 2)).tolist() == pytest.approx([0, 0, 255], abs=1)


def test_the_crop_is_the_centre(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("white in the middle")
    assert (ImageFolder(tmp_path, resolution=8).image(0) == 255).all()


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(DataError, match=r"expected a folder of images, got '.*nowhere'"):
        ImageFolder(tmp_path / "nowhere", 8)
    with pytest.raises(DataError, match="no images"):
        ImageFolder(tmp_path, 8)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: no caption; expected metadata.jsonl, metadata.csv or a.txt"):
        ImageFolder(tmp_path, 8)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "caption": "x"}))
    with pytest.raises(
        DataError, match=r"entry 1: expected a text column 'text', got columns \['caption', 'file_name'\]"
    ):
        ImageFolder(tmp_path, 8)
    assert ImageFolder(tmp_path, 8, caption_column="caption").captions == ["x"]
    (tmp_path / "metadata.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"metadata.jsonl: not readable as jsonl"):
        ImageFolder(tmp_path, 8)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "b.png", "text": "x"}))
    with pytest.raises(DataError, match=r"b.png does not exist"):
        ImageFolder(tmp_path, 8)


def _write_folder(folder, metadata: str) -> None:
    rows = {"wide.png": "wide, red", "tall.png": "tall blue"}
    Image.new("RGB", (20, 10), (255, 0, 0)).save(folder / "wide.png")
    Image.new("RGB", (10, 30), (0, 0, 255)).save(folder / "tall.png")
    if metadata == "jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows.items()]
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")
    elif metadata == "csv":
        lines = ["file_name,text", *(f'{name},"{text}"' for name, text in rows.items())]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    else:
        for name, text in rows.items():
            (folder / name).with_suffix(".txt").write_text(text)


def _decoded(pipe, latents: torch.Tensor) -> torch.Tensor:
    """What the pipeline's VAE is given where denoising leaves `latents` as they are."""
    seen = []
    pipe.scheduler = DDIMScheduler()
    pipe.scheduler.step = lambda prediction, timestep, latents, **options: (latents,)
    pipe.vae.decode = lambda latents, **options: seen.append(latents) or (torch.zeros(1, 3, 16, 16),)
    size = {"use_resolution_binning": False} if isinstance(pipe, PixArtSigmaPipeline) else {}
    pipe("sun", latents=latents, num_inference_steps=1, height=16, width=16, output_type="pt", **size)
    return seen[0]
