"""`deltaconv check`: every picture that cannot be used is named, in folders, data sets and shards."""

import io

import pytest
from deltaconv_distill.cli import main
from PIL import Image
from shard_files import picture, write_files

SOUND = {"a": picture(0, 64, 128), "b": picture(1, 64, 64)}
BAD = {"c": b"", "d": picture(2, 64, 64)[:5000]}


def make_folder(tmp_path, pictures) -> str:
    for name, content in pictures.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        (tmp_path / f"{name}.txt").write_text("" if name == "a" else name)
    return str(tmp_path)


def make_shards(tmp_path, pictures) -> str:
    files = {f"{name}.png": content for name, content in pictures.items()}
    files |= {f"{name}.txt": b"" if name == "a" else name.encode() for name in pictures}
    write_files(tmp_path / "0.tar", dict(sorted(files.items())))
    return f"{tmp_path}/{{0..0}}.tar"


def make_data_set(tmp_path, pictures) -> str:
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    rows = [
        {"image": {"bytes": content, "path": None}, "text": "" if name == "a" else name}
        for name, content in pictures.items()
    ]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


MAKERS = pytest.mark.parametrize("make", [make_folder, make_shards, make_data_set])
OPTIONS = ["--resolution", "64", "--max_aspect_ratio", "4"]


@MAKERS
def test_sound_data_passes(tmp_path, capsys, make):
    assert main(["check", make(tmp_path, SOUND), *OPTIONS]) == 0
    told = capsys.readouterr().out
    assert "2 pictures: 1 with an empty caption, 0 smaller than they are trained at" in told
    assert "  64 x 64: 2" in told


@MAKERS
def test_every_bad_picture_is_named(tmp_path, capsys, make):
    assert main(["check", make(tmp_path, {**SOUND, **BAD}), *OPTIONS]) == 2
    told = capsys.readouterr()
    assert "2 pictures: 1 with" in told.out
    assert told.out.count("not a readable image") == 2
    assert "2 of 4 pictures cannot be used" in told.err


def test_buckets_are_counted_as_training_would_sort(tmp_path, capsys):
    file = io.BytesIO()
    Image.new("RGB", (400, 100)).save(file, format="PNG")
    folder = make_folder(tmp_path, {"wide": file.getvalue(), "small": picture(0, 64, 64)})
    assert main(["check", folder, "--resolution", "128", "--max_aspect_ratio", "4"]) == 0
    told = capsys.readouterr().out
    assert "64 x 256: 1" in told
    assert "128 x 128: 1" in told
    assert "1 smaller than" in told


def test_what_is_not_there_is_said(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    assert "no images" in capsys.readouterr().err
