"""Reading the JSON files of this package, each of which has a schema."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema


def load_record(path: str | os.PathLike[str], schema: dict[str, Any], what: str) -> dict[str, Any]:
    """The content of a file that has to fit `schema`; `what` names it in errors, such as "attention profile".

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON in UTF-8, or does not fit; the message says where.
    """
    try:
        record: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        jsonschema.validate(record, schema)
    except jsonschema.ValidationError as error:
        raise ValueError(f"path: {path} is no {what}: {error.json_path}: {error.message[:200]}") from error
    except ValueError as error:  # of JSON, or of its encoding
        raise ValueError(f"path: {path} is no JSON file: {error}") from error
    return record
