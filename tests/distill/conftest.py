from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers.utils import logging
from tiny_pipelines import DENOISERS


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
