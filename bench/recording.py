"""Figures, line by line, for `tools/gpu_check.sh`, which keeps them even if what measures is killed."""

from __future__ import annotations

import json
import os
from typing import Any

RECORDS = "DELTACONV_RECORDS"  # the file that records are appended to, one JSON object a line


def record(**fields: Any) -> None:
    """Append one record, if a file for them is named in the environment."""
    path = os.environ.get(RECORDS)
    if not path:
        return
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")
        file.flush()
        os.fsync(file.fileno())
