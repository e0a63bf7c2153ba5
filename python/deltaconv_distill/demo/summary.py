"""The demo's outcome in words: for a terminal, and the sentences that the report says too."""

from __future__ import annotations

from typing import Any


def summarise(figures: dict[str, Any]) -> str:
    """The figures that matter most, for a terminal; figures: the content of figures.json."""
    columns = {
        "noise_mse": f"{predicted(figures)} error",
        "teacher_mse": "to teacher",
        "fd_real": "FD-EffNet real",
        "fd_teacher": "to teacher",
    }
    shown = [column for column in columns if column in figures["quality"]["student"]]
    lines = [f"\n{'':<10}" + "".join(f"{columns[column]:>16}" for column in shown)]
    for key, row in figures["quality"].items():
        lines.append(f"{key:<10}" + "".join(f"{row[column]:>16.4g}" for column in shown))
    for time in figures["timing"]:
        lines.append(
            f"{time['size']}x{time['size']} pixels: {time['teacher_ms']:.1f} ms a step with self-attention, "
            f"{time['student_ms']:.1f} ms with ΔConvBlocks"
        )
    training = figures["training"]
    lines.append(
        f"{training['steps']} training steps in {training['seconds'] / 60:.1f} of {figures['seconds'] / 60:.1f} minutes"
    )
    if training["load"]["is_loaded"]:
        lines.append(describe_load(training["load"]))
    return "\n".join(lines)


def predicted(figures: dict[str, Any]) -> str:
    """What the teacher was trained to predict."""
    return "noise" if figures["predicted"] == "epsilon" else "velocity"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def describe_load(load: dict[str, Any]) -> str:
    """What a training on a machine that others used got of it."""
    return (
        "This machine was busy with other work: the training had "
        f"{load['cores']:.1f} of {counted(load['threads'], 'core')} and did {load['steps']:,} steps, where about "
        f"{load['expected_steps']:,} fit into the same time on a quiet one. The student falls short of what it could "
        "be, and times are longer than they could be."
    )
