#!/usr/bin/env python
"""Renders the embedded data set: the single-code-point emoji of Noto Color Emoji at 32x32, with their Unicode names.

Writes `emoji.png` (a sheet of tiles, row by row) and `emoji.json` (source, tile order, captions). The font's licence
text, `OFL.txt`, is kept next to them by hand. On Debian 12, with `fonts-noto-color-emoji` installed:

    pip install fonttools pillow unicodedata2
    python tools/teacher/build_emoji_data.py --output python/deltaconv_distill/embedded/data
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

import unicodedata2 as unicodedata  # names do not depend on the Python version
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

STRIKE = 109  # the font's one bitmap size, in pixels per em; its glyphs are 136 x 128
TILE = 32
COLUMNS = 40
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"

# The pictorial subset: emoji that a person names at a glance, even at 32 pixels.
SUBJECTS = (
    (0x1F300, 0x1F3CF),  # weather, plants, food, celebration, music, sport
    (0x1F400, 0x1F4AF),  # animals, clothes, fantasy, hearts
    (0x1F600, 0x1F64F),  # faces
    (0x1F680, 0x1F6A4),  # transport
    (0x1F940, 0x1F9BF),  # more food, clothes and animals
)
LONGEST_PICTORIAL_NAME = 2  # words; longer names tell fine differences that 32 pixels do not show
UNCLEAR = re.compile(  # signs, and kinds whose members look alike
    r"\b("
    r"arm|baby|boxing|boy|cane|cinema|cyclone|dancer|family|film|fog|foggy|foot|girl|"
    r"haircut|leg|light|man|mans|mark|massage|milky|officer|oncoming|person|princess|railway|"
    r"school|score|speech|station|superhero|supervillain|symbol|thought|tickets?|tram|"
    r"trolleybus|water wave|wedding|wheelchair|woman|womans|worker"
    r")\b"
)


# What kind of thing an emoji shows, by code point; the last range that holds it counts.
KINDS = (
    (0x1F300, 0x1F32C, "sky"),
    (0x1F32D, 0x1F37F, "food"),
    (0x1F330, 0x1F344, "plant"),
    (0x1F337, 0x1F33C, "flower"),
    (0x1F345, 0x1F353, "fruit"),
    (0x1F366, 0x1F370, "dessert"),
    (0x1F377, 0x1F37C, "drink"),
    (0x1F380, 0x1F3BF, "toy"),
    (0x1F3B7, 0x1F3BB, "music"),
    (0x1F3C0, 0x1F3CF, "sport"),
    (0x1F400, 0x1F43F, "animal"),
    (0x1F413, 0x1F414, "bird"),
    (0x1F419, 0x1F419, "sea animal"),
    (0x1F41B, 0x1F41E, "insect"),
    (0x1F41F, 0x1F421, "sea animal"),
    (0x1F423, 0x1F427, "bird"),
    (0x1F42C, 0x1F42C, "sea animal"),
    (0x1F42D, 0x1F43C, "animal face"),
    (0x1F440, 0x1F445, "body part"),
    (0x1F451, 0x1F463, "clothes"),
    (0x1F479, 0x1F480, "monster"),
    (0x1F484, 0x1F4AF, "toy"),
    (0x1F493, 0x1F49F, "heart"),
    (0x1F600, 0x1F64F, "face"),
    (0x1F680, 0x1F6A4, "vehicle"),
    (0x1F940, 0x1F94F, "sport"),
    (0x1F950, 0x1F96F, "food"),
    (0x1F970, 0x1F97A, "face"),
    (0x1F97B, 0x1F97F, "clothes"),
    (0x1F980, 0x1F9BF, "animal"),
)


def kind_of(codepoint: int, caption: str) -> str:
    """A word that names many emoji at once, for captions that leave open which one is meant."""
    if caption.endswith(" face") and 0x1F980 <= codepoint <= 0x1F9BF:
        return "animal face"
    kinds = [kind for first, last, kind in KINDS if first <= codepoint <= last]
    return kinds[-1] if kinds else ""


def is_pictorial(codepoint: int, caption: str) -> bool:
    """Whether the emoji is in the subset that the embedded teacher is trained on."""
    subject = any(first <= codepoint <= last for first, last in SUBJECTS)
    return subject and len(caption.split()) <= LONGEST_PICTORIAL_NAME and not UNCLEAR.search(caption)


def render(font: ImageFont.FreeTypeFont, codepoint: int) -> Image.Image | None:
    """One glyph on white, TILE x TILE; None if the glyph is empty."""
    side = 136
    glyph = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    ImageDraw.Draw(glyph).text((0, 4), chr(codepoint), font=font, embedded_color=True)
    if glyph.getchannel("A").getbbox() is None:
        return None
    page = Image.new("RGBA", glyph.size, "white")
    page.alpha_composite(glyph)
    return page.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)


def build(font_path: str, output: Path) -> int:
    table = TTFont(font_path)
    font = ImageFont.truetype(font_path, STRIKE)
    rows, tiles = [], []
    for codepoint in sorted(table.getBestCmap()):
        caption = unicodedata.name(chr(codepoint), "").lower()
        if codepoint < 0xA0 or not caption:  # ASCII: digits and signs that only start keycap sequences
            continue
        tile = render(font, codepoint)
        if tile is None:
            continue
        pictorial = is_pictorial(codepoint, caption)
        kind = kind_of(codepoint, caption) if pictorial else ""
        rows.append({"codepoint": codepoint, "caption": caption, "pictorial": pictorial, "kind": kind})
        tiles.append(tile)

    sheet = Image.new("RGB", (COLUMNS * TILE, -(-len(tiles) // COLUMNS) * TILE), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % COLUMNS * TILE, i // COLUMNS * TILE))
    record = {
        "source": "Debian package fonts-noto-color-emoji, NotoColorEmoji.ttf",
        "font_version": table["name"].getDebugName(5),
        "copyright": table["name"].getDebugName(0),
        "license": "OFL-1.1 (OFL.txt)",
        "unicode_version": unicodedata.unidata_version,
        "tile": TILE,
        "columns": COLUMNS,
        "emoji": rows,
    }
    output.mkdir(parents=True, exist_ok=True)
    partial = output / "emoji.partial.png"
    sheet.save(partial, optimize=True)
    os.replace(partial, output / "emoji.png")
    partial = output / "emoji.partial.json"
    partial.write_text(json.dumps(record, indent=0) + "\n")
    os.replace(partial, output / "emoji.json")
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default=FONT)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    print(f"{build(args.font, args.output)} emoji written to {args.output}")


if __name__ == "__main__":
    main()
