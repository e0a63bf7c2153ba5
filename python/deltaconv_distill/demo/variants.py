"""The four ways in which one denoiser runs in the demo."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from ..conversion import DeltaConvFusion


@dataclass(frozen=True)
class Variant:
    """key: its name in figures.json; title, note: what pictures and tables call it; colour: of its bar (Okabe-Ito)."""

    key: str
    title: str
    note: str
    colour: str

    def running(self, fusion: DeltaConvFusion) -> AbstractContextManager:
        """Inside, the denoiser that `fusion` is attached to runs as this variant."""
        if self.key == "teacher":
            return fusion.teacher()
        if self.key == "student":
            return nullcontext()
        return fusion.ablate(self.key)


TEACHER = Variant("teacher", "Teacher", "its own self-attention", "#0072B2")
REMOVED = Variant("removed", "Attention removed", "nothing in its place", "#999999")
POOL = Variant("pool", "Average only", "the block's pool branch alone", "#CC79A7")
STUDENT = Variant("student", "Student", "distilled ΔConvBlocks", "#D55E00")

VARIANTS = (TEACHER, REMOVED, POOL, STUDENT)
