"""Latents and embeddings on the disk: equal to fresh ones, continued after an interruption, refused when foreign."""

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
    with pytest.raises(DataError, match="holds a cache of other images, captions, sizes, encoders or another dtype"):
        write_cache(RandomImages(), encoder, tmp_path, torch.float32)
    (tmp_path / "latents-00000.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match=r"latents-00000.safetensors: damaged or missing"):
        CachedOnDisk(tmp_path, encoder).moments([0])
