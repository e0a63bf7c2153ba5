import os
import platform
from collections.abc import Callable

import pytest
import torch

import deltaconv_kernels

ROWS = pytest.StashKey[dict[str, list[dict[str, str]]]]()


@pytest.fixture
def add_row(request) -> Callable[..., None]:
    """Add a row to one of the tables printed at the end: add_row(table, column=text, …)."""
    tables = request.config.stash.setdefault(ROWS, {})
    return lambda table, **columns: tables.setdefault(table, []).append(columns)


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["deltaconv_backends"] = {
        name: status.reason or "available" for name, status in deltaconv_kernels.backends().items()
    }


def pytest_terminal_summary(terminalreporter, config):
    tables = config.stash.get(ROWS, {})
    for title, rows in tables.items():
        columns = list(rows[0])
        widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
        terminalreporter.section(title)
        for cells in (columns, *([row[column] for column in columns] for row in rows)):
            first, *others = (
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            terminalreporter.write_line("  ".join([first, *others]))
    if tables:
        terminalreporter.write_line("")
        terminalreporter.write_line(
            f"{_processor()}, {torch.get_num_threads()} threads, instruction set of ours: "
            f"{torch.ops.deltaconv.cpu_isa()}; torch {torch.__version__}, Python {platform.python_version()}. "
            "Ratios are medians of one run, all sides interleaved: peer's time over ours."
        )


def _processor() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
