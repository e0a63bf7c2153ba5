"""Colour profiles: pictures in other colours than sRGB are trained on as viewers show them."""

import io
import struct

import numpy as np
import pytest
from deltaconv_distill.distillation.data.pictures import read_picture
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def encoded(image: Image.Image, profile: bytes, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, icc_profile=profile, **options)
    return file.getvalue()


def seen(content: bytes) -> np.ndarray:
    return np.asarray(read_picture(content)).astype(int)


def swapped() -> bytes:
    """A profile of RGB in which the first channel is sRGB's blue and the third its red."""
    profile = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), "BGRs".encode("utf-16-be"))


def made_profile(space: bytes, connection: bytes, **tags: bytes) -> bytes:
    """An ICC profile of version 2 with these tags: header, table of tags, and their data."""
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)  # D50
    name = b"desc" + struct.pack(">II5s", 0, 5, b"made\0") + bytes(4 + 4 + 2 + 1 + 67)
    entries = {"wtpt": white, "desc": name, "cprt": struct.pack(">4sI5s", b"text", 0, b"none\0"), **tags}
    table, body = struct.pack(">I", len(entries)), b""
    start = 128 + 4 + 12 * len(entries)
    for tag, data in entries.items():
        table += struct.pack(">4sII", tag.encode(), start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"prtr", space, connection) + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


def linear_grey() -> bytes:
    """Grey whose values are proportional to light."""
    return made_profile(b"GRAY", b"XYZ ", kTRC=struct.pack(">4sII", b"curv", 0, 0))


def inks() -> bytes:
    """CMYK of which only the black counts: L* = 100 without it and 0 with all of it."""
    identity = bytes(range(256))
    grid = b"".join(bytes((0 if black else 255, 128, 128)) for _ in range(8) for black in (0, 1))
    matrix = struct.pack(">9i", *(65536 if row == column else 0 for row in range(3) for column in range(3)))
    table = struct.pack(">4sI4B", b"mft1", 0, 4, 3, 2, 0) + matrix + identity * 4 + grid + identity * 3
    return made_profile(b"CMYK", b"Lab ", A2B0=table)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_colours_are_those_that_the_profile_names(kind):
    picture = Image.fromarray(np.repeat(np.repeat(COLOURS, 16, 0), 16, 1))
    options = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    stored = seen(encoded(picture, SRGB, kind, **options))
    assert abs(seen(encoded(picture, swapped(), kind, **options)) - stored[..., ::-1]).max() <= 2


def test_alpha_and_palettes_keep_their_transparency():
    alpha = np.full((8, 8, 1), 255, np.uint8)
    alpha[:, :4] = 0
    result = seen(encoded(Image.fromarray(np.concatenate([COLOURS, alpha], 2)), swapped()))
    assert (result[:, :4] == 255).all()
    assert abs(result[:, 4:] - COLOURS[:, 4:, ::-1]).max() <= 2
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([255, 0, 0, 200, 10, 30])
    palette.putpixel((0, 0), 0)
    result = seen(encoded(palette, swapped(), transparency=0))
    assert (result[0, 0] == 255).all()
    assert abs(result[1, 1] - [30, 10, 200]).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "16 bits"])
def test_grey_has_profiles_too(mode):
    """A value of 55 of 255 in proportion to light is .503 of the way to white as sRGB stores it."""
    if mode == "16 bits":
        picture = Image.fromarray(np.full((4, 4), 55 * 257, np.uint16))
    else:
        picture = Image.new(mode, (4, 4), 55 if mode == "L" else (55, 255))
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    assert abs(seen(encoded(picture, linear_grey())) - expected).max() <= 1.5


def test_inks_are_those_of_the_profile():
    picture = Image.new("CMYK", (2, 1), (255, 255, 255, 0))
    picture.putpixel((1, 0), (0, 0, 0, 255))
    result = seen(encoded(picture, inks(), "TIFF"))
    assert result[0, 0].min() >= 253
    assert result[0, 1].max() <= 2


PROFILES = {"text": b"no profile", "cut": SRGB[:200], "of grey": linear_grey(), "sRGB": SRGB}


@pytest.mark.parametrize("kind", PROFILES)
def test_unusable_and_unneeded_profiles_change_nothing(kind):
    assert (seen(encoded(Image.fromarray(COLOURS), PROFILES[kind])) == COLOURS).all()
