"""Pipelines that show no progress bars of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers import DiffusionPipeline


@contextmanager
def quiet(pipe: DiffusionPipeline) -> Iterator[None]:
    """Without the pipeline's own progress bars, inside another."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(**{**(before or {}), "disable": True})
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config
        else:
            pipe.set_progress_bar_config(**before)
