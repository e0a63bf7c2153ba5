"""Latents and embeddings on the disk: equal to fresh ones, continued after an interruption, refused when foreign."""

import numpy as np
import pytest
import torch
from deltaconv_distill.distillation import (
    CachedOnDisk,
    DataError,
    EncodedOnTheFly,
    Framer,
    ImageFolder,
    PipelineEncoder,
    write_cache,
)
from deltaconv_distill.distillation.data import cache
from distilling import CAPTIONS, RandomImages, make_distiller
from PIL import Image
from tiny_pipelines import tiny_pixart, tiny_sd, tiny_sdxl


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_pixart], ids=["sd", "sdxl", "pixart"])
def test_a_cache_gives_what_the_encoders_give(tmp_path, make):
    encoder = PipelineEncoder(make())
    write_cache(RandomImages(), encoder, tmp_path / "cache", torch.float32)
    cached, fresh = CachedOnDisk(tmp_path / "cache", encoder), EncodedOnTheFly(RandomImages(), encoder)
    assert list(cached.captions) == list(CAPTIONS)
    torch.testing.assert_close(cached.moments([3, 0]).mean, fresh.moments([3, 0]).mean)
    torch.testing.assert_close(cached.moments([3, 0]).std, fresh.moments([3, 0]).std)
    captions = [CAPTIONS[2], "", CAPTIONS[0]]
    torch.testing.assert_close(cached.conditioning(captions), fresh.conditioning(captions))
    torch.testing.assert_close(cached.geometry([1, 4]), fresh.geometry([1, 4]))


def test_half_precision_halves_the_files_and_trains_alike(tmp_path):
    pipe = tiny_sd()
    encoder = PipelineEncoder(pipe)
    for dtype in (torch.float32, torch.float16):
        write_cache(RandomImages(), encoder, tmp_path / str(dtype), dtype)
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / str(d)).glob("*.safetensors"))
        for d in (torch.float32, torch.float16)
    ]
    assert sizes[1] < 0.6 * sizes[0]
    half = CachedOnDisk(tmp_path / "torch.float16", encoder)
    assert half.moments([0]).mean.dtype == torch.float32
    expected = make_distiller().train_step()
    distiller = make_distiller(pipe)
    distiller.stream.examples = half
    assert distiller.train_step().terms == pytest.approx(expected.terms, rel=0.01)


def test_an_interrupted_cache_is_continued(tmp_path, monkeypatch):
    encoder = PipelineEncoder(tiny_sd())
    monkeypatch.setattr(cache, "EXAMPLES_PER_FILE", 2)
    images = RandomImages()
    monkeypatch.setattr(images, "image", lambda index: broken() if index == 4 else RandomImages.image(images, index))

    def broken():
        raise DataError("4.png: not a readable image")

    with pytest.raises(DataError, match=r"4\.png"):
        write_cache(images, encoder, tmp_path)
    with pytest.raises(DataError, match=r"no complete cache here: cache.json is missing"):
        CachedOnDisk(tmp_path)
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("latents-*")}
    assert sorted(written) == ["latents-00000.safetensors", "latents-00001.safetensors"]
    write_cache(RandomImages(), encoder, tmp_path)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in written} == written
    assert len(CachedOnDisk(tmp_path, encoder)) == 5


def test_buckets_stay_apart(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index, size in enumerate([(16, 16), (32, 16), (16, 32), (32, 16)]):
        Image.new("RGB", size, (40 * index, 0, 0)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(str(index))
    images = ImageFolder(folder, Framer(16, max_aspect_ratio=4, step=8))
    encoder = PipelineEncoder(tiny_sd())
    write_cache(images, encoder, tmp_path / "cache", torch.float32)
    cached = CachedOnDisk(tmp_path / "cache", encoder)
    assert cached.buckets == images.buckets
    for index in range(4):
        expected = EncodedOnTheFly(images, encoder).moments([index]).mean
        torch.testing.assert_close(cached.moments([index]).mean, expected)


def test_foreign_caches_are_refused(tmp_path):
    encoder = PipelineEncoder(tiny_sd())
    write_cache(RandomImages(), encoder, tmp_path)
    other = tiny_sd()
    torch.nn.init.normal_(next(iter(other.text_encoder.parameters())))
    with pytest.raises(DataError, match="made with another text_encoder than the teacher's"):
        CachedOnDisk(tmp_path, PipelineEncoder(other))
    with pytest.raises(DataError, match="holds a cache made with other dtype: give a new folder"):
        write_cache(RandomImages(), encoder, tmp_path, torch.float32)
    (tmp_path / "latents-00000.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match=r"latents-00000.safetensors: damaged or missing"):
        CachedOnDisk(tmp_path, encoder).moments([0])


def write_folder(folder, seed: int = 0, caption: str = "fruit"):
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption)
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [("resolution", "image sizes"), ("buckets", "image sizes"), ("captions", "captions or buckets"),
     ("scale", "encoder settings"), ("weights", "encoders"), ("text length", "encoder settings")],
)  # fmt: skip
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "unfinished"])
def test_a_cache_of_something_else_is_refused(tmp_path, change, named, complete):
    folder, pipe = write_folder(tmp_path / "images"), tiny_sd()
    write_cache(ImageFolder(folder, 16), PipelineEncoder(pipe), tmp_path / "cache")
    if not complete:
        (tmp_path / "cache" / "cache.json").unlink()
    framer: int | Framer = 16
    if change == "resolution":
        framer = 32
    elif change == "buckets":
        framer = Framer(16, 4, 8)
    elif change == "captions":
        write_folder(folder, caption="bird")
    elif change == "scale":
        pipe.vae.register_to_config(scaling_factor=0.13025)
    elif change == "text length":
        pipe.tokenizer.model_max_length = 8
    else:
        torch.nn.init.normal_(next(iter(pipe.vae.parameters())))
    with pytest.raises(DataError, match=f"holds a cache made with other {named}"):
        write_cache(ImageFolder(folder, framer), PipelineEncoder(pipe), tmp_path / "cache")


def test_pictures_that_have_changed_are_noticed(tmp_path):
    encoder, folder = PipelineEncoder(tiny_sd()), write_folder(tmp_path / "images")
    write_cache(ImageFolder(folder, 16), encoder, tmp_path / "cache")
    write_cache(ImageFolder(folder, 16), encoder, tmp_path / "cache")
    write_folder(folder, seed=1)
    with pytest.raises(DataError, match=r"latents-00000.safetensors: was made of other pictures"):
        write_cache(ImageFolder(folder, 16), encoder, tmp_path / "cache")


def test_settings_of_the_encoder_are_part_of_a_caches_identity(tmp_path):
    pipe = tiny_sd()
    write_cache(RandomImages(), PipelineEncoder(pipe), tmp_path / "cache")
    pipe.vae.register_to_config(scaling_factor=0.5)
    with pytest.raises(DataError, match=r"made with latent_scale \[0.18215\], the teacher has \[0.5\]"):
        CachedOnDisk(tmp_path / "cache", PipelineEncoder(pipe))
    plan = tmp_path / "cache" / "plan.json"
    plan.write_text(plan.read_text().replace('"format": 3', '"format": 2'))
    with pytest.raises(DataError, match="of an earlier format"):
        CachedOnDisk(tmp_path / "cache", PipelineEncoder(tiny_sd()))


@pytest.mark.parametrize(
    ("factor", "dtype", "fits"), [(1e5, "float16", False), (1e5, "bfloat16", True), (1, "float16", True)]
)
def test_values_that_the_dtype_cannot_hold_are_refused(tmp_path, factor, dtype, fits):
    encoder = PipelineEncoder(tiny_sd())
    fresh = encoder.conditioning
    encoder.conditioning = lambda captions: {name: value * factor for name, value in fresh(captions).items()}
    if fits:
        write_cache(RandomImages(), encoder, tmp_path / "cache", getattr(torch, dtype))
        stored = CachedOnDisk(tmp_path / "cache").conditioning(["sun"])
        torch.testing.assert_close(stored, encoder.conditioning(["sun"]), rtol=0.01, atol=0.01 * factor)
        return
    with pytest.raises(DataError, match=r"encoder_hidden_states reach .*, which torch.float16 cannot hold"):
        write_cache(RandomImages(), encoder, tmp_path / "cache", getattr(torch, dtype))


def test_an_encoder_that_gives_nan_is_named(tmp_path):
    encoder = PipelineEncoder(tiny_sd())
    torch.nn.init.constant_(encoder.pipe.vae.quant_conv.bias, torch.nan)
    with pytest.raises(DataError, match="the encoder's mean are not finite"):
        write_cache(RandomImages(), encoder, tmp_path / "cache")
