"""The embedded data set: colour emoji at 32x32 with their Unicode names as captions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class EmojiDataset:
    """Images with captions, in order of code point.

    images: uint8 [N, 32, 32, 3], RGB on white; captions: N lower-case Unicode names, all different;
    kinds: N names that many emoji share ("fruit", "animal face"), empty outside the pictorial subset;
    codepoints: N integers.
    """

    images: np.ndarray
    captions: list[str]
    kinds: list[str]
    codepoints: list[int]

    def __len__(self) -> int:
        return len(self.captions)


def load_emoji(pictorial_only: bool = False) -> EmojiDataset:
    """Loads the emoji (rendered by tools/teacher/build_emoji_data.py from Noto Color Emoji, OFL-1.1).

    pictorial_only keeps what a person names at a glance (animals, plants, food, transport, faces, …) and leaves
    out signs, letters, buildings and look-alikes: it is what the embedded teacher was trained on.
    """
    folder = files(__package__) / "data"
    record = json.loads((folder / "emoji.json").read_text())
    rows = record["emoji"]
    with (folder / "emoji.png").open("rb") as stream, Image.open(stream) as image:
        sheet = np.asarray(image.convert("RGB"))
    tile, columns = record["tile"], record["columns"]
    tiles = sheet.reshape(sheet.shape[0] // tile, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    kept = [i for i, row in enumerate(rows) if row["pictorial"] or not pictorial_only]
    return EmojiDataset(
        images=np.ascontiguousarray(tiles[kept]),
        captions=[rows[i]["caption"] for i in kept],
        kinds=[rows[i]["kind"] for i in kept],
        codepoints=[rows[i]["codepoint"] for i in kept],
    )
