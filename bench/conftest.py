import platform
from collections.abc import Callable

import pytest
import torch
from deltaconv_distill.machine import cpu
from tables import Row, render
from targets import TARGETS

import deltaconv_kernels

TABLES = pytest.StashKey[dict[str, list[Row]]]()


@pytest.fixture
def add_row(request) -> Callable[..., None]:
    """Add a row to one of the tables printed at the end: add_row(table, column=text or number, …)."""
    tables = request.config.stash.setdefault(TABLES, {})
    return lambda table, **columns: tables.setdefault(table, []).append(columns)


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["deltaconv_backends"] = {
        name: status.reason or "available" for name, status in deltaconv_kernels.backends().items()
    }


def pytest_terminal_summary(terminalreporter, config):
    tables = config.stash.get(TABLES, {})
    if not tables:
        return
    targets = [row for target in TARGETS if (row := target.row(tables)) is not None]
    for title, rows in (*tables.items(), *([("targets on two threads of a CPU", targets)] if targets else [])):
        terminalreporter.section(title)
        for line in render(rows):
            terminalreporter.write_line(line)
    terminalreporter.write_line("")
    terminalreporter.write_line(
        f"{cpu()['name']}, {torch.get_num_threads()} threads, instruction set of ours: "
        f"{torch.ops.deltaconv.cpu_isa()}; torch {torch.__version__}, Python {platform.python_version()}. "
        "Ratios are of medians of one run: the peer's time over ours."
    )
