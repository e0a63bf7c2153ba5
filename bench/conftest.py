import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from deltaconv_distill.machine import cpu
from tables import Row, render
from targets import TARGETS

import deltaconv_kernels

# PyTorch's depthwise convolutions are oneDNN's (16 and 32 bits) and ATen's own (float64); its matrix products MKL's.
ASK_ONEDNN = "import torch; torch.conv2d(torch.ones(1, 8, 8, 8), torch.ones(8, 1, 3, 3), groups=8)"
LIMITS = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")

TABLES = pytest.StashKey[dict[str, list[Row]]]()
LEFT_OUT = pytest.StashKey[int]()
QUOTED, EVERY_TABLE = "quoted", "--every-table"


def pytest_addoption(parser):
    parser.addoption(EVERY_TABLE, action="store_true", help="measure what the README does not quote too")


def pytest_configure(config):
    config.addinivalue_line("markers", f"{QUOTED}: in a table of the README; all others run only with {EVERY_TABLE}")


def pytest_collection_modifyitems(config, items):
    here = Path(__file__).parent
    left_out = [item for item in items if item.path.is_relative_to(here) and not item.get_closest_marker(QUOTED)]
    if left_out and not config.getoption(EVERY_TABLE):
        config.stash[LEFT_OUT] = len(left_out)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def add_row(request) -> Callable[..., None]:
    """Add a row to one of the tables printed at the end: add_row(table, column=text or number, …)."""
    tables = request.config.stash.setdefault(TABLES, {})
    return lambda table, **columns: tables.setdefault(table, []).append(columns)


def peers_instruction_sets() -> str:
    """What eager PyTorch computes with, by oneDNN's and ATen's own word, and the variables that hold it to less."""
    asked = subprocess.run(
        [sys.executable, "-c", ASK_ONEDNN], env={**os.environ, "ONEDNN_VERBOSE": "1"}, capture_output=True, text=True
    )
    said = re.search(r"cpu,isa:(.*)", asked.stdout)
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    return (
        f"PyTorch's oneDNN {said.group(1) if said else 'unknown'}, ATen {torch.backends.cpu.get_cpu_capability()}"
        f" ({', '.join(limits) or 'no limits set'})"
    )


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["deltaconv_backends"] = {
        name: status.reason or "available" for name, status in deltaconv_kernels.backends().items()
    }


def pytest_terminal_summary(terminalreporter, config):
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{count} benchmarks that the README does not quote run with {EVERY_TABLE} only.")
    tables = config.stash.get(TABLES, {})
    if not tables:
        return
    targets = [row for target in TARGETS if (row := target.row(tables)) is not None]
    for title, rows in (*tables.items(), *([("targets of a CPU", targets)] if targets else [])):
        terminalreporter.section(title)
        for line in render(rows):
            terminalreporter.write_line(line)
    terminalreporter.write_line("")
    terminalreporter.write_line(
        f"{cpu()['name']}, {torch.get_num_threads()} threads; torch {torch.__version__}, "
        f"Python {platform.python_version()}. Ratios are of medians of one run: the peer's time over ours."
    )
    terminalreporter.write_line(f"Instruction sets: ours {torch.ops.deltaconv.cpu_isa()}; {peers_instruction_sets()}.")
