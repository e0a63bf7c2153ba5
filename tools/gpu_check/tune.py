"""Times the Triton backend's tiles on the shapes that count most; `tune_triton.py --from` reads the records."""

from __future__ import annotations

from dataclasses import asdict

import torch
from recording import record
from tune_triton import tune_named

SHAPES = ("sdxl-64-k9", "sd15-64-k11", "sd15-32-k9", "sd15-64-k7", "pixart-64-k13")


def main() -> None:
    for name in SHAPES:
        key, best = tune_named(name, torch.bfloat16)
        record(tuned=str(key), configuration=asdict(best))


if __name__ == "__main__":
    main()
