"""Writes the table by which "auto" chooses between cuda and triton, from the JSON files of `tools/gpu_check.sh`.

`python tools/gpu_results/compare_gpu_backends.py FILE …` adds or replaces the entries of
deltaconv_kernels/triton/ahead.json that the files have a measurement for: the CUDA library's time over Triton's, the
geometric mean over a class of problems.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from draw_gpu_tables import every_record

from deltaconv_kernels.testing import NAMED_SHAPES
from deltaconv_kernels.triton import ahead

Ratios = dict[str, dict[str, float]]


def measured(contents: Iterable[dict[str, Any]]) -> Ratios:
    """What the files say, each of one GPU, by class of problem and pass; a problem is timed with an empty L2 cache."""
    ratios: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for content in contents:
        device = "sm" + content["machine"]["gpus"][0]["compute_capability"].replace(".", "")
        for record in every_record(content):
            if record.get("kind") != "operator" or not {"cuda", "triton"} <= record["times"].keys():
                continue
            shape = NAMED_SHAPES[record["shape"]]
            key = ahead.problem_class(
                device, shape.inter, shape.height, shape.width, shape.kernel_size, shape.factors,
                getattr(torch, record["dtype"]),
            )  # fmt: skip
            cuda, triton = (record["times"][backend]["cold"] for backend in ("cuda", "triton"))
            ratios[key][record["pass"]].append(cuda / triton)
    return {
        key: {which: round(geometric_mean(found), 3) for which, found in passes.items()}
        for key, passes in ratios.items()
    }


def write(entries: Ratios) -> None:
    beside = ahead.TABLE.with_suffix(".new")
    beside.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
    beside.replace(ahead.TABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    write(ahead.table() | measured(json.loads(file.read_text()) for file in files))


if __name__ == "__main__":
    main()
