"""The colours of a picture that carries an ICC profile, as a viewer shows them: in sRGB."""

from __future__ import annotations

import functools
import io
import logging

from PIL import Image, ImageCms, features

logger = logging.getLogger(__name__)

# What a profile may describe, by its name in the profile, and the modes in which Pillow converts from it.
MODES = {"RGB ": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}


def in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in mode RGB or RGBA and in sRGB, which is what a picture without a profile is taken to be in.

    A profile that is damaged, or that is for another kind of picture, is ignored, as viewers do.

    Args:
        picture: in mode L, LA, RGB, RGBA or CMYK; others are returned as they are.
        profile: the ICC profile embedded in its file, if any.
    """
    if not profile or not _can_convert():
        return picture
    alpha = picture.getchannel("A") if picture.mode == "LA" else None
    colours = picture if alpha is None else picture.getchannel("L")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if colours.mode not in MODES.get(source.profile.xcolor_space, ()) or _is_srgb(source):
            return picture
        mode = "RGBA" if colours.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(colours, source, _srgb(), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    assert converted is not None  # it is None where a picture is converted in place
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """By its name; converting would cost time, and a level here and there."""
    return "srgb" in (profile.profile.profile_description or "").lower()


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.cache
def _can_convert() -> bool:
    able = features.check("littlecms2")
    if not able:
        logger.warning("this Pillow was built without LittleCMS: colour profiles of pictures are ignored")
    return bool(able)
