"""One policy for pictures that cannot be used: named once, counted, left out, up to a limit; everywhere the same."""

import json
import logging

import pytest
import torch
from deltaconv_distill.distillation import (
    BadPictures,
    CachedExamples,
    CachedOnDisk,
    DataError,
    EncodedOnTheFly,
    ExampleStream,
    Framer,
    HubImages,
    ImageFolder,
    PipelineEncoder,
    ShardedImages,
    write_cache,
)
from deltaconv_distill.distillation.data.batches import Draws
from deltaconv_distill.distillation.data.shard_stream import ShardStream
from distilling import make_distiller
from shard_files import picture, write_files, write_shard
from tiny_pipelines import tiny_sd

BAD = {"1": b"", "3": picture(3)[:400]}  # empty, and cut off behind its header


@pytest.fixture(scope="module")
def encoder() -> PipelineEncoder:
    return PipelineEncoder(tiny_sd())


def write_folder(folder, pictures: dict[str, bytes]):
    folder.mkdir(exist_ok=True)
    for name, content in pictures.items():
        (folder / f"{name}.png").write_bytes(content)
        (folder / f"{name}.txt").write_text(name)
    return folder


def pictures(sound: str = "0245") -> dict[str, bytes]:
    return {**BAD, **{name: picture(int(name)) for name in sound}}


def make_stream(examples, batch_size: int = 3, **chance) -> ExampleStream:
    return ExampleStream(examples, batch_size, Draws(0, 1000, **chance))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("framer", [Framer(16), Framer(16, 4, 8)], ids=["square", "buckets"])
def test_in_a_folder_they_are_named_once_and_left_out(tmp_path, encoder, caplog, workers, framer):
    folder = ImageFolder(write_folder(tmp_path / "images", pictures()), framer)
    stream = make_stream(EncodedOnTheFly(folder, encoder, workers))
    with caplog.at_level(logging.WARNING):
        seen = {stream.examples.captions[i] for p in range(0, 36, 3) for i in stream.examples.usable(stream.indices(p))}
        assert torch.isfinite(stream.batch(0).latents).all()
    assert seen == set("0245")
    assert len(stream.bad) == 2
    for name in BAD:
        assert caplog.text.count(f"{name}.png: left out: not a readable image") <= 1
        assert f"{name}.png" in " ".join(folder.bad.reasons)


def test_the_caption_is_that_of_the_picture_in_its_place(tmp_path, encoder):
    folder = ImageFolder(write_folder(tmp_path / "images", pictures()), 16)
    examples = EncodedOnTheFly(folder, encoder)
    assert examples.usable([0, 1, 2, 3, 5]) == [0, 2, 2, 4, 5]
    stream = make_stream(examples, batch_size=1)
    position = next(p for p in range(6) if stream.index(p) == 3)
    batch = stream.batch(position)
    expected = examples.conditioning(["4"])["encoder_hidden_states"]
    torch.testing.assert_close(batch.conditioning["encoder_hidden_states"], expected)
    posterior = Draws(0, 1000).at(position, batch.latents.shape[1:])[0]
    torch.testing.assert_close(batch.latents, examples.moments([4]).sample(posterior))


def test_splitting_a_batch_changes_nothing(tmp_path, encoder):
    folder = write_folder(tmp_path / "images", pictures())
    whole = make_stream(EncodedOnTheFly(ImageFolder(folder, 16), encoder), 4).batch(0)
    parts = [make_stream(EncodedOnTheFly(ImageFolder(folder, 16), encoder), 2).batch(p) for p in (0, 2)]
    torch.testing.assert_close(torch.cat([part.latents for part in parts]), whole.latents)


def test_too_many_are_an_error_that_names_the_last(tmp_path, encoder):
    folder = ImageFolder(write_folder(tmp_path / "images", pictures()), 16, bad=BadPictures(limit=1))
    examples = EncodedOnTheFly(folder, encoder)
    with pytest.raises(DataError, match=r"max_bad_pictures: 2 pictures cannot be used, more than 1; .*3.png"):
        examples.usable(range(6))


def test_none_that_can_be_used_is_an_error(tmp_path, encoder):
    folder = write_folder(tmp_path / "images", BAD)
    with pytest.raises(DataError, match=r"no picture of the size of .* can be used"):
        EncodedOnTheFly(ImageFolder(folder, 16), encoder).usable([0])
    with pytest.raises(DataError, match="none of 2 pictures can be used"):
        CachedExamples(ImageFolder(folder, 16), encoder)
    with pytest.raises(DataError, match="none of 2 pictures can be used"):
        write_cache(ImageFolder(folder, 16), encoder, tmp_path / "cache")
    write_folder(folder, {"1": b"", "3": b""})
    with pytest.raises(DataError, match="none of the 2 pictures can be used"):
        ImageFolder(folder, Framer(16, 4, 8))


def test_caches_do_without_them(tmp_path, encoder):
    folder = ImageFolder(write_folder(tmp_path / "images", pictures()), 16)
    memory = CachedExamples(folder, encoder)
    write_cache(folder, encoder, tmp_path / "cache", torch.float32)
    disk = CachedOnDisk(tmp_path / "cache", encoder)
    fresh = EncodedOnTheFly(folder, encoder).moments([0, 2, 4, 5]).mean
    for cached in (memory, disk):
        assert list(cached.captions) == list("0245")
        torch.testing.assert_close(cached.moments(range(4)).mean, fresh)


def test_in_a_data_set_of_the_datasets_library_too(tmp_path, encoder):
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    rows = [{"image": {"bytes": content, "path": None}, "text": name} for name, content in pictures().items()]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    images = HubImages(datasets.Dataset.from_list(rows, features=features), 16)
    assert EncodedOnTheFly(images, encoder).usable([0, 1, 2]) == [2, 2, 2]
    assert set(images.bad.reasons) == {"entry 0 of the data set", "entry 1 of the data set"}


def test_in_shards_they_are_counted_over_all_workers(tmp_path, encoder):
    bad = {"b.png": b"", "b.txt": b"empty", "c.png": picture(1), "c.json": b'["a list"]', "d.png": picture(2)}
    bad |= {"e.mask.png": picture(3), "e.txt": b"a mask alone", "f.png": picture(4), "f.txt": b"caf\xe9"}
    for shard in range(2):
        sound = {f"{shard}.mask.png": picture(5), f"{shard}.png": picture(6), f"{shard}.txt": b"\xef\xbb\xbfsound"}
        write_files(tmp_path / f"{shard}.tar", {**sound, **bad})
    images = ShardedImages(f"{tmp_path}/{{0..1}}.tar", Framer(16), encoder)
    stream = ShardStream(images, 1, Draws(0, 1000), num_workers=2)
    batches = [stream.read() for _ in range(6)]
    assert {caption for batch in batches for caption in batch.captions} == {"sound"}
    assert all(torch.equal(batch.pixels, batches[0].pixels) for batch in batches)
    assert len(stream.bad) == 10
    reasons = {name.rsplit(" ")[-1]: reason for name, reason in stream.bad.reasons.items()}
    assert "not a readable image" in reasons["b"]
    assert "no caption among" in reasons["c"]
    assert "no caption among" in reasons["d"]
    assert "no picture of its own" in reasons["e"]
    assert "expected UTF-8" in reasons["f"]


def test_the_mask_beside_a_picture_is_not_trained_on(tmp_path, encoder):
    files = {"a.mask.png": picture(0), "a.png": picture(1), "a.txt": b"cat"}
    write_files(tmp_path / "s.tar", files)
    stream = ShardStream(ShardedImages(str(tmp_path / "s.tar"), Framer(16), encoder), 1, Draws(0, 1000))
    write_folder(tmp_path / "images", {"a": picture(1)})
    assert torch.equal(stream.read().pixels[0], ImageFolder(tmp_path / "images", 16).image(0))


def test_a_whole_epoch_without_a_usable_sample_says_why(tmp_path, encoder):
    write_files(tmp_path / "s.tar", {"a.png": picture(0), "a.json": json.dumps({"caption": "x"}).encode()})
    stream = ShardStream(ShardedImages(str(tmp_path / "s.tar"), Framer(16), encoder), 1, Draws(0, 1000))
    with pytest.raises(DataError, match=r"no usable sample .*sample a: no caption among .*; expected .txt, or .json"):
        stream.read()


def test_training_goes_on_and_the_bar_counts_them(tmp_path, encoder, capsys):
    folder = ImageFolder(write_folder(tmp_path / "images", pictures()), 16)
    pipe = tiny_sd()
    distiller = make_distiller(pipe, EncodedOnTheFly(folder, PipelineEncoder(pipe)), max_train_steps=3)
    assert len(distiller.train()) == 3
    assert "bad_pictures=2" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["folder", "shards"])
def test_half_of_the_pictures_are_mirrored(tmp_path, encoder, where):
    contents = {str(index): picture(index) for index in range(4)}
    folder = ImageFolder(write_folder(tmp_path / "images", contents), 16)
    pixels = []
    encode = encoder.moments
    encoder.moments = lambda images: (pixels.append(images), encode(images))[1]
    if where == "folder":
        stream = make_stream(EncodedOnTheFly(folder, encoder), 4, random_flip=True)
    else:
        write_shard(tmp_path / "s.tar", contents)
        images = ShardedImages(str(tmp_path / "s.tar"), Framer(16), encoder)
        stream = ShardStream(images, 4, Draws(0, 1000, random_flip=True))
    for position in range(0, 80, 4):
        stream.batch(position)
    del encoder.moments
    originals = [folder.image(index).float() / 127.5 - 1 for index in range(4)]
    shown = [image for batch in pixels for image in batch]
    plain = sum(any(torch.equal(image, original) for original in originals) for image in shown)
    mirrored = sum(any(torch.equal(image.flip(-1), original) for original in originals) for image in shown)
    assert plain + mirrored == 80
    assert 28 <= plain <= 52


def test_encoded_examples_cannot_be_mirrored(tmp_path, encoder):
    folder = ImageFolder(write_folder(tmp_path / "images", pictures()), 16)
    with pytest.raises(ValueError, match="random_flip: expected images that are encoded on the fly"):
        make_stream(CachedExamples(folder, encoder), random_flip=True)
