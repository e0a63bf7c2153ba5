"""Which pictures a folder holds, and the caption of each."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from .captions import decode_text
from .errors import DataError
from .pictures import IMAGE_SUFFIXES

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
SPLIT_FOLDER = "train"  # where Hugging Face's imagefolder has the metadata of a set with splits


def captioned_files(folder: Path, caption_column: str) -> list[tuple[Path, str]]:
    """Each picture with its caption, from metadata or from a .txt file beside it.

    Raises:
        DataError: a missing picture or caption, or a text that cannot be read; the message names the file.
    """
    places = (folder / place / name for place in (".", SPLIT_FOLDER) for name in METADATA_FILES)
    metadata = next((path for path in places if path.is_file()), None)
    return _read_metadata(metadata, caption_column) if metadata else _read_text_files(folder)


def _read_metadata(path: Path, caption_column: str) -> list[tuple[Path, str]]:
    text = _read_text(path)
    try:
        rows = _parse(text, path.suffix)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: not readable as {path.suffix[1:]} ({error})") from error
    return [_captioned(path, number, row, caption_column) for number, row in enumerate(rows, 1)]


def _parse(text: str, suffix: str) -> list[dict]:
    lines = io.StringIO(text, newline="")
    if suffix == ".csv":
        return list(csv.DictReader(lines))
    rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not an object")
    return rows


def _captioned(metadata: Path, number: int, row: dict, caption_column: str) -> tuple[Path, str]:
    for column in ("file_name", caption_column):
        if not isinstance(row.get(column), str):
            columns = sorted(map(str, row))
            raise DataError(f"{metadata}, entry {number}: expected a text column {column!r}, got columns {columns}")
    path = metadata.parent / row["file_name"]
    if not path.is_file():
        raise DataError(f"{metadata}, entry {number}: {path} does not exist")
    return path, row[caption_column]


def _read_text_files(folder: Path) -> list[tuple[Path, str]]:
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    for path in images:
        if not path.with_suffix(".txt").is_file():
            raise DataError(
                f"{path}: no caption; expected metadata.jsonl, metadata.csv or {path.with_suffix('.txt').name}"
            )
    return [(path, _read_text(path.with_suffix(".txt")).strip()) for path in images]


def _read_text(path: Path) -> str:
    try:
        return decode_text(path.read_bytes(), str(path))
    except ValueError as error:
        raise DataError(str(error)) from error
