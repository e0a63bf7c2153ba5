"""Streamed shards: who reads what, order, exact resume, broken samples; aspect-ratio buckets; HF data sets."""

import json
import logging
from collections import Counter

import numpy as np
import pytest
import torch
from deltaconv_distill.distillation import (
    DataError,
    EncodedOnTheFly,
    ExampleStream,
    Framer,
    HubImages,
    ImageFolder,
    PipelineEncoder,
    ShardedImages,
)
from deltaconv_distill.distillation.data.batches import Draws
from deltaconv_distill.distillation.data.shard_stream import ShardStream
from deltaconv_distill.distillation.data.shards import Place, ShardReader
from distilling import make_distiller
from PIL import Image
from shard_files import picture, write_files, write_shard
from tiny_pipelines import tiny_sd

SHARDS, SAMPLES = 5, 4


@pytest.fixture(scope="module")
def encoder() -> PipelineEncoder:
    return PipelineEncoder(tiny_sd())


@pytest.fixture
def shards(tmp_path, encoder) -> ShardedImages:
    for shard in range(SHARDS):
        write_shard(
            tmp_path / f"{shard:03}.tar", {f"{shard}-{i}": picture(shard * SAMPLES + i) for i in range(SAMPLES)}
        )
    return ShardedImages(f"{tmp_path}/{{000..{SHARDS - 1:03}}}.tar", Framer(16), encoder, shuffle_buffer=3)


@pytest.mark.parametrize(("processes", "workers"), [(1, 1), (2, 1), (2, 2), (1, 3)])
def test_an_epoch_reads_every_sample_once_over_all_processes_and_workers(shards, processes, workers):
    seen = Counter()
    orders = set()
    for epoch in range(3):
        for process in range(processes):
            reader = make_reader(shards, process, processes, workers)
            for worker in range(workers):
                for url in reader.shards_of(worker, epoch):
                    groups = list(reader._groups(url, epoch))
                    seen.update((epoch, sample["__key__"]) for group in groups for sample in group)
        orders.add(tuple(key for number, key in seen if number == epoch))
    assert set(seen.values()) == {1}
    assert len(seen) == 3 * SHARDS * SAMPLES
    assert len(orders) == 3


def test_no_shard_is_in_two_hands(shards):
    readers = [make_reader(shards, process, 2, 2) for process in range(2)]
    hands = [reader.shards_of(worker, 7) for reader in readers for worker in range(2)]
    assert sorted(url for hand in hands for url in hand) == sorted(shards.shards)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("interrupted_after", [1, 5, 12])
def test_a_resumed_stream_goes_on_with_the_same_batches(shards, workers, interrupted_after):
    whole, cut = make_stream(shards, workers), make_stream(shards, workers)
    expected = [whole.batch(2 * index) for index in range(interrupted_after + 6)]
    for index in range(interrupted_after):
        cut.batch(2 * index)
    resumed = make_stream(shards, workers)
    resumed.load_state(json.loads(json.dumps(cut.state())))
    for index in range(interrupted_after, interrupted_after + 6):
        assert_same_batch(resumed.batch(2 * index), expected[index])


def test_shards_in_buckets_make_batches_of_one_size_and_resume(tmp_path, encoder):
    for shard in range(2):
        sizes = [(16, 16), (8, 24), (16, 16), (8, 24), (8, 24)]
        pictures = {f"{shard}-{index}": picture(index, *size) for index, size in enumerate(sizes)}
        write_shard(tmp_path / f"{shard}.tar", pictures)
    images = ShardedImages(f"{tmp_path}/{{0..1}}.tar", Framer(16, max_aspect_ratio=4, step=8), encoder)
    whole, cut, resumed = (make_stream(images, 0) for _ in range(3))
    expected = [whole.batch(2 * index) for index in range(6)]  # an epoch: three batches of each shard
    shapes = Counter(tuple(batch.latents.shape[2:]) for batch in expected)
    assert shapes == {(8, 8): 2, (4, 12): 4}
    for index in range(2):
        cut.batch(2 * index)
    resumed.load_state(cut.state())
    for index in range(2, 6):
        assert_same_batch(resumed.batch(2 * index), expected[index])


def test_two_processes_share_no_sample_also_after_a_resume(shards):
    epoch = []
    for process, batches in enumerate((6, 4)):  # three shards of two batches to one process, two to the other
        stream, resumed = make_stream(shards, 0, process, 2), make_stream(shards, 0, process, 2)
        epoch += read_captions(stream, 3)
        resumed.load_state(stream.state())
        epoch += read_captions(resumed, batches - 3)
    assert Counter(epoch).most_common(1)[0][1] == 1
    assert len(epoch) == SHARDS * SAMPLES


def test_training_on_shards_resumes_to_the_same_bits(shards, tmp_path):
    settings = {"max_train_steps": 5, "checkpointing_steps": 2, "learning_rate": 1e-2}
    whole = make_distiller(examples=shards, output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    cut = make_distiller(examples=shards, output_dir=str(tmp_path / "cut"), **settings)
    for _ in range(2):
        cut.train_step()
    cut.save_checkpoint()
    cut.train_step()
    resumed = make_distiller(
        examples=shards, output_dir=str(tmp_path / "cut"), resume_from_checkpoint="latest", **settings
    )
    resumed.train()
    for old, new in zip(whole.parameters, resumed.parameters, strict=True):
        assert torch.equal(old, new)


def test_broken_samples_are_warned_about_and_left_out(tmp_path, encoder, caplog):
    sound = picture(1)
    files = {"a.png": sound, "a.txt": b"sound", "b.png": b"not a picture", "b.txt": b"broken"}
    files |= {"c.png": sound[: len(sound) // 2], "c.txt": b"cut off", "d.txt": b"no picture", "e.png": sound}
    files |= {"f.png": sound, "f.json": json.dumps({"text": "from json"}).encode()}
    write_files(tmp_path / "0.tar", files)
    content = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(content[:1300])  # ends within its first picture
    stream = make_stream(ShardedImages(f"{tmp_path}/{{0..1}}.tar", Framer(16), encoder), 0)
    with caplog.at_level(logging.WARNING):
        captions = set(read_captions(stream, 4))
    assert captions == {"sound", "from json"}
    for key in ("sample b", "sample c", "sample d", "sample e", "1.tar: left out: the shard"):
        assert key in caplog.text


def test_shards_that_cannot_do_are_errors(tmp_path, shards, encoder):
    with pytest.raises(DataError, match=r"expected a shard at least for each of 3 processes x 2 workers, got 5"):
        make_stream(shards, 2, 0, 3)
    write_files(tmp_path / "empty.tar", {"a.txt": b"no picture"})
    with pytest.raises(DataError, match="no usable sample in a whole epoch"):
        make_stream(ShardedImages(f"{tmp_path}/empty.tar", Framer(16), encoder), 0).batch(0)
    other = make_stream(shards, 0)
    with pytest.raises(DataError, match="written with 2 readers of shards per process, not 1"):
        other.load_state(make_stream(shards, 2).state())
    fewer = ShardedImages("::".join(shards.shards[:3]), Framer(16), encoder)
    with pytest.raises(DataError, match="written with 5 shards, not 3"):
        make_stream(fewer, 0).load_state(other.state())
    with pytest.raises(ValueError, match="stage1_repeats: expected 1 with streamed shards, got 2"):
        make_distiller(examples=shards, stage1_repeats=2)


def test_buckets_keep_the_aspect_ratio_and_batches_one_size(tmp_path, encoder):
    sizes = [(16, 16)] * 3 + [(64, 20)] * 3 + [(15, 30)] * 5
    for index, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{index:02}.png")
        (tmp_path / f"{index:02}.txt").write_text(str(index))
    framer = Framer(16, max_aspect_ratio=4, step=8)
    assert framer.sizes == [(16, 16), (8, 24), (24, 8), (8, 32), (32, 8)]
    folder = ImageFolder(tmp_path, framer)
    assert [folder.image(index).shape[1:] for index in (0, 3, 6)] == [(16, 16), (8, 24), (24, 8)]
    assert folder.framing(3) == (20, 64, 0, 1, 8, 24)
    stream = ExampleStream(EncodedOnTheFly(folder, encoder, num_workers=2), 2, Draws(0, 1000))
    epoch = [stream.indices(position) for position in range(0, 14, 2)]  # 2 + 2 + 3 batches
    assert {index for indices in epoch for index in indices} == set(range(11))
    for indices in epoch:
        assert len({folder.buckets[index] for index in indices}) == 1
    stream.prefetch(2)
    assert stream.batch(2).latents.shape[0] == 2


def test_data_sets_of_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    pictures = [Image.fromarray(np.full((20, 30, 3), 50 * index, np.uint8)) for index in range(3)]
    rows = {"image": pictures, "text": ["a", "b", "c"], "number": [1, 2, 3]}
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "number": datasets.Value("int64")}
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    images = HubImages.load(str(tmp_path / "saved"), 16)
    assert list(images.captions) == ["a", "b", "c"]
    assert (images.image(2) == 100).all()
    assert images.image(2).shape == (3, 16, 16)
    assert images.framing(1) == (20, 30, 0, 4, 16, 16)
    with pytest.raises(DataError, match=r"caption_column: expected one of the columns .* got 'caption'"):
        HubImages.load(str(tmp_path / "saved"), 16, caption_column="caption")
    with pytest.raises(DataError, match="image_column: expected images in 'number'"):
        HubImages.load(str(tmp_path / "saved"), 16, image_column="number")
    with pytest.raises(DataError, match=r"dataset_name: .* cannot be loaded"):
        HubImages.load(str(tmp_path / "nowhere"), 16)


def make_reader(shards, process, processes, workers) -> ShardReader:
    return ShardReader(shards, 0, 2, process, processes, [Place()] * workers)


def make_stream(shards, workers, process=0, processes=1) -> ShardStream:
    return ShardStream(shards, 2, Draws(0, 1000), workers, process, processes)


def read_captions(stream, batches):
    """The captions of the next batches, past the encoder."""
    for _ in range(batches):
        yield from stream.read().captions


def assert_same_batch(actual, expected) -> None:
    assert torch.equal(actual.latents, expected.latents)
    assert torch.equal(actual.noise, expected.noise)
    for name, value in expected.conditioning.items():
        assert torch.equal(actual.conditioning[name], value)
