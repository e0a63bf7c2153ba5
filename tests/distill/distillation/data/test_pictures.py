"""Pictures as viewers show them, captions in any encoding, and what cannot be read named."""

import io
import json

import numpy as np
import pytest
from deltaconv_distill.distillation import BadPicture, DataError, Framer, ImageFolder
from deltaconv_distill.distillation.data.captions import decode_text
from deltaconv_distill.distillation.data.pictures import read_picture, read_size
from PIL import ExifTags, Image, ImageOps
from shard_files import picture


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def with_orientation(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    return encoded(Image.fromarray(pixels), kind, exif=exif)


def chunk_behind_pixels(content: bytes) -> bytes:
    """The PNG file with its eXIf chunk moved to the end."""
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    return content[:start] + content[end:last] + content[start:end] + content[last:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG, metadata last", "WEBP"])
def test_pictures_are_upright(orientation, kind):
    content = with_orientation(orientation, kind.split(",")[0])
    if kind == "PNG, metadata last":
        content = chunk_behind_pixels(content)
    with Image.open(io.BytesIO(content)) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    assert read_size(content) == (expected.height, expected.width) == ((16, 8) if orientation > 4 else (8, 16))
    assert (np.asarray(read_picture(content)) == np.asarray(expected)).all()


def test_an_upright_size_chooses_the_bucket(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (128, 64)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("a tower")
    folder = ImageFolder(tmp_path, Framer(16, max_aspect_ratio=4, step=8))
    assert folder.framing(0) == (128, 64, 0, 2, 24, 8)
    assert folder.image(0).shape == (3, 24, 8)


def test_damaged_exif_leaves_the_picture_as_it_is_stored():
    content = encoded(Image.new("RGB", (16, 8), "red"), "JPEG", exif=b"Exif\0\0nothing of the kind")
    assert read_size(content) == (8, 16)
    assert read_picture(content).size == (16, 8)


def test_16_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).round().astype(np.uint16)
    seen = np.asarray(read_picture(encoded(Image.fromarray(ramp))))
    assert (seen == np.round(ramp / 257).astype(np.uint8)[..., None]).all()


def transparent(mode: str) -> tuple[bytes, tuple[int, int, int]]:
    """A picture that is transparent on the left, and the colour that its right half shows."""
    if mode == "16 bits":
        values = np.full((4, 4), 257 * 60, np.uint16)
        values[:, :2] = 100
        return encoded(Image.fromarray(values), transparency=100), (60, 60, 60)
    image = Image.new("RGBA", (4, 4), (200, 10, 30, 255))
    image.paste((200, 10, 30, 0), (0, 0, 2, 4))
    if mode == "P":
        palette = Image.new("P", (4, 4), 1)
        palette.putpalette([255, 0, 0, 200, 10, 30])
        palette.paste(0, (0, 0, 2, 4))
        return encoded(palette, transparency=0), (200, 10, 30)
    if mode == "LA":
        return encoded(image.convert("LA")), (image.convert("L").getpixel((3, 0)),) * 3
    return encoded(image), (200, 10, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "16 bits"])
def test_transparent_parts_are_white(mode):
    content, colour = transparent(mode)
    seen = read_picture(content)
    assert seen.getpixel((0, 0)) == (255, 255, 255)
    assert seen.getpixel((3, 0)) == colour


def test_half_transparent_parts_are_mixed_with_white():
    assert read_picture(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 51)))).getpixel((0, 0)) == (204, 204, 204)


def bomb() -> bytes:
    """400 megapixels, in 49 kB."""
    return encoded(Image.new("1", (20_000, 20_000)))


UNREADABLE = {
    "empty": lambda: b"",
    "text": lambda: b"not a picture",
    "truncated": lambda: picture(0)[:400],
    "damaged": lambda: picture(0).replace(b"IDAT", b"IDAX"),
    "bomb": bomb,
    "floats": lambda: encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
    "palette without colours": lambda: encoded(Image.new("P", (4, 4))).replace(b"PLTE", b"PLTX"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_whatever_cannot_be_read_is_a_bad_picture(kind):
    with pytest.raises(BadPicture):
        read_picture(UNREADABLE[kind]())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("source", ["txt", "csv", "jsonl"])
def test_captions_have_no_byte_order_mark(tmp_path, encoding, source):
    caption = "naïve café, 猫\u2028"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    text = {
        "txt": caption,
        "csv": f'file_name,text\na.png,"{caption}"\n',
        "jsonl": json.dumps({"file_name": "a.png", "text": caption}, ensure_ascii=False),
    }[source]
    name = "a.txt" if source == "txt" else f"metadata.{source}"
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert ImageFolder(tmp_path, 8).captions == [caption.strip() if source == "txt" else caption]


@pytest.mark.parametrize("name", ["a.txt", "metadata.csv", "metadata.jsonl"])
def test_a_caption_in_another_encoding_is_an_error_with_its_files_name(tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / name).write_bytes("file_name,text\na.png,naïve".encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}: expected UTF-8.*byte 0xef at 23.*iconv"):
        ImageFolder(tmp_path, 8)


def test_text_is_what_was_written():
    assert decode_text("\ufefffirst".encode(), "a.txt") == "first"
    assert decode_text(b"", "a.txt") == ""


def test_metadata_may_stand_in_train(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "train" / "a.png")
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "red"}))
    folder = ImageFolder(tmp_path, 8)
    assert folder.captions == ["red"]
    assert folder.image(0)[:, 0, 0].tolist() == [255, 0, 0]
