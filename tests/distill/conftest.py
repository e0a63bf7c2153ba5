from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers.utils import logging
from tiny_pipelines import DENOISERS

FULL_SIZE = "full_size"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{FULL_SIZE}: gigabytes and minutes; runs only with -m {FULL_SIZE}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if FULL_SIZE in config.option.markexpr:
        return
    deselected = [item for item in items if item.get_closest_marker(FULL_SIZE)]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if not item.get_closest_marker(FULL_SIZE)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small spend their time waking threads up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def diffusers_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """caplog for the messages of diffusers and of what uses its loggers."""
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


@pytest.fixture(params=DENOISERS)
def denoiser(request: pytest.FixtureRequest) -> torch.nn.Module:
    """One tiny denoiser of each kind."""
    return DENOISERS[request.param]()
