"""A converted denoiser of each kind is one graph."""

from __future__ import annotations

import copy

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from tiny_denoisers import TINY, make_tiny, run, tiny_inputs

# One of each kind; of some, whose graphs take long to trace, a part. All, and whole, with -m full_size.
IN_EVERY_RUN = {
    "dit": "",
    "ddpm": "mid_block",
    "svd": "mid_block.attentions.0",  # the owner of a note
    "sd3": "",
    "flux": "",
    "auraflow": "single_transformer_blocks.0",
    "chroma": "single_transformer_blocks.0",
    "qwen": "transformer_blocks.0",
    "cogview4": "transformer_blocks.0",
}


def check(name: str, part: str) -> None:
    torch.compiler.reset()
    denoiser = make_tiny(name)
    size = TINY[name].sizes[1]
    teacher = run(denoiser, *size)
    torch.manual_seed(1)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3, init="random")
    student = run(denoiser, *size)
    denoiser.get_submodule(part).compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(run(denoiser, *size), student)
    with fusion.teacher():
        torch.testing.assert_close(run(denoiser, *size), teacher)


@torch.no_grad()
@pytest.mark.parametrize("name", IN_EVERY_RUN)
def test_compiles_without_graph_breaks(name: str) -> None:
    check(name, IN_EVERY_RUN[name])


@torch.no_grad()
def test_two_sizes_of_flux_and_no_fusion_any_more() -> None:
    """Positions cannot be read in a graph, and are read before it: of each call, also in a copy, not after detach."""
    torch.compiler.reset()
    denoiser = make_tiny("flux")
    sizes = TINY["flux"].sizes[:2]
    teachers = [run(denoiser, *size) for size in sizes]
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3, init="random")
    students = [run(denoiser, *size) for size in sizes]
    denoiser.compile(fullgraph=True, backend="eager")
    for size, student in zip(sizes, students, strict=True):
        torch.testing.assert_close(run(denoiser, *size), student)
    with fusion.at_size(*sizes[1]):  # said as well
        torch.testing.assert_close(run(denoiser, *sizes[1]), students[1])
    torch.testing.assert_close(run(copy.deepcopy(denoiser), *sizes[0]), students[0])
    fusion.detach()
    torch.compiler.reset()
    for size, teacher in zip(sizes, teachers, strict=True):
        torch.testing.assert_close(run(denoiser, *size), teacher)


@torch.no_grad()
def test_a_compiled_form_of_flux_needs_to_be_told_the_size() -> None:
    torch.compiler.reset()
    denoiser = make_tiny("flux")
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3, init="random")
    student = run(denoiser, 8, 12)
    compiled = torch.compile(denoiser, fullgraph=True, backend="eager")
    with fusion.at_size(8, 12):
        torch.testing.assert_close(compiled(**tiny_inputs(denoiser, 8, 12), return_dict=False)[0], student)


# Models that read how long their texts are, which no graph can: one of their blocks in place of the whole.
IN_PARTS = {"lumina2": "layers.0", "z-image": "layers.0"}


@torch.no_grad()
@pytest.mark.full_size
@pytest.mark.parametrize("name", TINY)
def test_whole_models_compile_without_graph_breaks(name: str) -> None:
    check(name, IN_PARTS.get(name, ""))
