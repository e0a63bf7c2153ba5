"""What distilling a published model costs: FLOPs of a training step, and the memory that one copy of the weights saves.

FLOPs are counted by PyTorch's FlopCounterMode on the meta device, which computes nothing: the teacher's forward, the
student's forward, and the backward pass, that needs gradients of activations everywhere but of weights in the blocks
alone. Memory is measured: the resident size of this process with one denoiser that serves as teacher and student, and
with a second one as the published trainer of ΔConvFusion has it.

    python tools/distill/training_cost.py flops --models sd15:512,sdxl:1024,pixart-sigma:1024
    python tools/distill/training_cost.py memory --model sd15
"""

from __future__ import annotations

import argparse
import copy
import gc
from collections.abc import Callable
from typing import Any

import psutil
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.known_models import KNOWN_MODELS, VAE_SCALE, build_denoiser
from deltaconv_distill.conversion.model_inputs import random_inputs
from torch.utils.flop_counter import FlopCounterMode

MIB, TERA = 2**20, 1e12
ADAM_BYTES = 4 + 4 + 4 + 4  # of a trained parameter: float32 value, gradient, two moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    flops = commands.add_parser("flops", help="FLOPs of a training step for one example")
    flops.add_argument("--models", default="sd15:512,sdxl:1024,pixart-sigma:1024", help="name:pixels, …")
    flops.set_defaults(run=lambda options: print_flops(options.models))
    memory = commands.add_parser("memory", help="resident memory with one and with two copies of the frozen weights")
    memory.add_argument("--model", default="sd15", choices=KNOWN_MODELS)
    memory.set_defaults(run=lambda options: print_memory(options.model))
    options = parser.parse_args()
    options.run(options)


def print_flops(models: str) -> None:
    titles = ("model", "pixels", "teacher", "student", "backward", "TFLOP/example", "trained, M", "AdamW, MiB")
    print(("{:>14}" * len(titles)).format(*titles))
    for entry in models.split(","):
        name, pixels = entry.split(":")
        denoiser = build_denoiser(name).requires_grad_(False)
        fusion = DeltaConvFusion.convert(denoiser, kernel_size="auto", init="random").requires_grad_(True)
        side = int(pixels) // VAE_SCALE
        parts = step_flops(denoiser, fusion, random_inputs(denoiser, side, side))
        trained = sum(parameter.numel() for parameter in fusion.parameters())
        figures = [*(part / TERA for part in parts), sum(parts) / TERA, trained / 1e6, trained * ADAM_BYTES / MIB]
        print(f"{name:>14}{pixels:>14}" + "".join(f"{figure:>14.2f}" for figure in figures))


def step_flops(denoiser: torch.nn.Module, fusion: DeltaConvFusion, inputs: dict[str, Any]) -> tuple[int, int, int]:
    """FLOPs of the teacher's forward, the student's forward and the backward pass."""

    def counted(run: Callable[[], Any]) -> tuple[int, torch.Tensor]:
        with FlopCounterMode(display=False) as counter:
            result = run()
        return counter.get_total_flops(), result

    with torch.no_grad(), fusion.teacher():
        teacher, _ = counted(lambda: denoiser(**inputs, return_dict=False)[0])
    student, prediction = counted(lambda: denoiser(**inputs, return_dict=False)[0])
    backward, _ = counted(lambda: prediction.sum().backward())
    return teacher, student, backward


def print_memory(name: str) -> None:
    process = psutil.Process()
    start = process.memory_info().rss
    denoiser = build_denoiser(name, dtype=torch.bfloat16).to_empty(device="cpu").requires_grad_(False)
    fill(denoiser)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size="auto", init="random")
    gc.collect()
    shared = process.memory_info().rss - start
    fusion.detach()
    second = copy.deepcopy(denoiser)
    gc.collect()
    two = process.memory_info().rss - start
    frozen = sum(parameter.nbytes for parameter in second.parameters())
    blocks = sum(parameter.nbytes for parameter in fusion.parameters())
    print(f"{name}, bfloat16: frozen weights {frozen / MIB:.0f} MiB, blocks {blocks / MIB:.0f} MiB")
    print(f"resident, one denoiser for teacher and student: {shared / MIB:.0f} MiB")
    print(f"resident, a denoiser for each:                  {two / MIB:.0f} MiB ({(two - shared) / MIB:.0f} more)")


def fill(module: torch.nn.Module) -> None:
    """Touch every page: memory that was never written is not resident."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.fill_(0.01)


if __name__ == "__main__":
    main()
