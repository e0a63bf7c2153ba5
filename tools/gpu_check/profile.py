"""Nsight Compute over the workload; every kernel's figures become a record."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections import defaultdict

from recording import record

from .workload import arguments, refuse_unless_available

SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy", "MemoryWorkloadAnalysis", "ComputeWorkloadAnalysis")


def main() -> None:
    options = arguments()
    refuse_unless_available(options.backend)
    for shape in options.shapes:
        for dtype in options.dtypes:
            for kernel in profiled(options.backend, shape, dtype):
                record(backend=options.backend, shape=shape, dtype=dtype, **kernel)


def profiled(backend: str, shape: str, dtype: str) -> list[dict]:
    """One dict of metrics for each kernel launch of a forward and a backward pass."""
    workload = (sys.executable, "-m", "gpu_check.workload", "--backend", backend, "--shapes", shape, "--dtypes", dtype)
    sections = [argument for section in SECTIONS for argument in ("--section", section)]
    options = ("--csv", "--page", "details", "--clock-control", "none", "--profile-from-start", "off")
    run = subprocess.run(("ncu", *options, *sections, *workload), capture_output=True, text=True)
    if run.returncode:
        print(run.stdout[-1500:], run.stderr[-1500:])
        sys.exit(run.returncode)
    return kernels(run.stdout)


def kernels(output: str) -> list[dict]:
    """Nsight Compute's CSV, a line for each metric, as a dict for each launch; kernels of torch's own are left out."""
    start = output.find('"ID"')
    launches: dict[str, dict] = defaultdict(lambda: {"metrics": {}})
    for row in csv.DictReader(io.StringIO(output[start:] if start >= 0 else "")):
        if "pyramid" not in row["Kernel Name"] and "deltaconv" not in row["Kernel Name"]:
            continue
        launch = launches[row["ID"]]
        launch["kernel"] = row["Kernel Name"]
        if row["Metric Name"]:
            launch["metrics"][f"{row['Metric Name']} [{row['Metric Unit']}]"] = row["Metric Value"]
    return list(launches.values())


if __name__ == "__main__":
    main()
