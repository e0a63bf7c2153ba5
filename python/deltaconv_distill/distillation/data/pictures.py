"""A picture of any kind as a viewer shows it: upright, in 8-bit sRGB, on white where it is transparent."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .colours import in_srgb
from .errors import BadPicture

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
# By EXIF orientation: what turns the stored pixels upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations that swap height and width
PNG_SIGNATURE, PNG_CHECKSUM = 8, 4  # bytes

Source = str | Path | bytes  # a file, or what is in one


def read_size(source: Source) -> tuple[int, int]:
    """(height, width) as a viewer shows the picture, without decoding its pixels.

    Raises:
        BadPicture: it is not a readable picture.
    """
    with _opened(source) as picture:
        height, width = picture.height, picture.width
        return (width, height) if _orientation(picture) in SIDEWAYS else (height, width)


def read_picture(source: Source) -> Image.Image:
    """The picture in mode RGB, in sRGB whatever its colour profile, turned upright, and composed on white.

    Raises:
        BadPicture: it is not a readable picture, or one of numbers without a known range.
    """
    with _opened(source) as picture:
        turn = TURNS.get(_orientation(picture))
        upright = picture if turn is None else picture.transpose(turn)
        return _as_rgb(upright, picture.info.get("icc_profile"), is_png=picture.format == "PNG")


def picture_digest(source: Source) -> str:
    """Tells the contents of a picture's file from any other's; of a file that cannot be read, the reason."""
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        return type(error).__name__
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """Whatever a decoder raises, of which foreign bytes make many kinds, means that the picture cannot be used."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            yield picture
    except BadPicture:
        raise
    except UnidentifiedImageError as error:  # whose message names an object in memory
        raise BadPicture("not a readable image (of no format that Pillow knows)") from error
    except Exception as error:
        raise BadPicture(f"not a readable image ({error or type(error).__name__})") from error


def _orientation(picture: Image.Image) -> int:
    """EXIF's or XMP's, 1 to 8; 1 (upright) where there is none or it is damaged, as viewers have it."""
    if picture.format == "PNG" and _has_chunks_after_pixels(picture.fp):
        picture.load()  # metadata may stand behind the pixels
    try:
        # PngImageFile's own method would decode every picture that has no EXIF in front
        return Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def _has_chunks_after_pixels(file: IO[bytes]) -> bool:
    """Whether a PNG file has more than its end behind the pixels; the file's position stays where it was."""
    position, seen_pixels = file.tell(), False
    file.seek(PNG_SIGNATURE)
    while len(header := file.read(8)) == 8:
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        if kind == b"IEND" or (seen_pixels and kind != b"IDAT"):
            break
        seen_pixels = kind == b"IDAT"
        file.seek(length + PNG_CHECKSUM, io.SEEK_CUR)
    file.seek(position)
    return seen_pixels and len(header) == 8 and kind != b"IEND"


def _as_rgb(picture: Image.Image, profile: bytes | None, is_png: bool) -> Image.Image:
    if picture.mode in SIXTEEN_BITS or (picture.mode == "I" and is_png):  # Pillow's mode for these was once I
        return in_srgb(_from_16_bits(picture), profile).convert("RGB")
    if picture.mode in ("I", "F"):
        raise BadPicture(f"no brightness is known to be white in mode {picture.mode}; expected 8 or 16 bits a channel")
    is_transparent = picture.has_transparency_data
    if picture.mode not in ("L", "LA", "CMYK"):  # palettes, black and white, YCbCr, …: in the colours of RGB
        picture = picture.convert("RGBA" if is_transparent else "RGB")
    elif picture.mode == "L" and is_transparent:
        picture = picture.convert("LA")
    colours = in_srgb(picture, profile)
    if is_transparent:
        colours = colours.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return colours.convert("RGB")


def _from_16_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, 65535 being white; Pillow's own conversion would cut off at 255."""
    values = np.asarray(picture).astype(np.uint32)
    transparent = picture.info.get("transparency")
    if transparent is not None:
        values[values == transparent] = 65535
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
