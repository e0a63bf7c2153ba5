"""Builds, tests and measures what needs a GPU, each part under its own time limit, and writes one JSON.

The file is written anew after every part and while one runs: what was measured is never lost. A part that cannot run
says why. Parts that are done in a file that exists already are kept and not run again, unless named by --parts.
Exits with 1 where a part failed: one whose tests were all skipped has.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from .parts import Part, chosen
from .results import Results, default_path
from .runner import run_command

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/gpu_check.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="the JSON; bench/results/GPU-DATE-COMMIT.json where not given")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these; --list shows them")
    parser.add_argument("--minutes", type=float, default=27.0, help="no part starts, or goes on, beyond this")
    parser.add_argument("--commit", help="where the tree has no git directory")
    parser.add_argument("--list", action="store_true", help="show the parts, their limits, and what hinders them here")
    options = parser.parse_args()
    try:
        wanted = chosen(options.parts)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for part in wanted:
            print(f"{part.name:<24} {part.seconds:>4} s  {part.hindrance() or 'can run'}")
        return 0
    os.chdir(ROOT)
    _build_for_this_gpu_alone()
    results = Results(options.output or default_path(options.commit), options.commit)
    end = time.monotonic() + 60 * options.minutes
    failed = []
    for part in wanted:
        if options.parts is None and results.is_done(part.name):
            print(f"{part.name:<24} done before", flush=True)
            continue
        if run_part(part, results, end - time.monotonic()) == "failed":
            failed.append(part.name)
    print(f"{results.path}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run_part(part: Part, results: Results, seconds_left: float) -> str:
    """Run a part, or note why it was not run; its status."""
    reason = part.hindrance() or ("no time left" if seconds_left < 1 else None)
    if reason:
        outcome = {"status": "not run", "reason": reason, "records": []}
    else:
        limit = min(part.seconds, seconds_left)
        outcome = run_command(part.command, limit, lambda so_far: results.put(part.name, so_far))
    results.put(part.name, {"command": list(part.command), **outcome})
    print(
        f"{part.name:<24} {outcome['status']:<10} {outcome.get('seconds', 0):>6} s  "
        f"{len(outcome['records']):>4} records  {outcome.get('reason', '')}",
        flush=True,
    )
    return outcome["status"]


def _build_for_this_gpu_alone() -> None:
    """A build for every architecture takes minutes that a lent machine does not have."""
    if torch.cuda.is_available() and not os.environ.get("DELTACONV_CUDA_ARCHS"):
        major, minor = torch.cuda.get_device_capability()
        os.environ["DELTACONV_CUDA_ARCHS"] = f"{major}.{minor}"


if __name__ == "__main__":
    sys.exit(main())
