"""Routes that are noted for the time of a call, where blocks take no argument in which they could travel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.attachment import attachment_of
from deltaconv_distill.conversion.hooks import State
from deltaconv_distill.conversion.notes import CHECKPOINT, NotedCheckpoint
from tiny_denoisers import make_tiny, run
from torch import nn

FIRST = "transformer_blocks.0.attn1"


def converted() -> tuple[Any, DeltaConvFusion]:
    denoiser = make_tiny("latte")
    torch.manual_seed(1)
    return denoiser, DeltaConvFusion.convert(denoiser, kernel_size=3, init="random")


def state_of(denoiser: Any) -> State:
    attachment = attachment_of(denoiser)
    assert attachment is not None
    return attachment.control.now


@torch.no_grad()
def test_a_note_ends_with_its_call_whatever_happens_in_it() -> None:
    denoiser, _ = converted()
    expected = run(denoiser)

    def fail(module: nn.Module, args: Any) -> None:
        assert state_of(denoiser).note is not None
        raise KeyError("inside a block")

    handle = denoiser.transformer_blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="inside a block"):
        run(denoiser)
    handle.remove()
    assert state_of(denoiser).note is None
    assert torch.equal(run(denoiser), expected)
    assert state_of(denoiser).note is None


@torch.no_grad()
def test_notes_lie_on_each_other() -> None:
    """A hook inside one call runs another model, and the same one with another size."""
    denoiser, _ = converted()
    expected = run(denoiser, 8, 12)
    seen = []

    def inner(module: nn.Module, args: Any) -> None:
        handle.remove()
        outer = state_of(denoiser).note
        other = make_tiny("latte")
        DeltaConvFusion.convert(other, kernel_size=3, init="random")
        run(other)
        seen.append(state_of(denoiser).note is outer)
        run(denoiser)
        seen.append(state_of(denoiser).note is outer)

    handle = denoiser.transformer_blocks[1].register_forward_pre_hook(inner)
    assert torch.equal(run(denoiser, 8, 12), expected)
    assert seen == [True, True]


@torch.no_grad()
def test_blocks_by_themselves_are_refused() -> None:
    denoiser, _ = converted()
    with pytest.raises(RuntimeError, match="called without its grid"):
        denoiser.get_submodule(FIRST)(torch.zeros(1, 16, 16))


@torch.no_grad()
def test_threads_have_notes_of_their_own() -> None:
    denoiser, _ = converted()
    noises = [torch.randn(2, 4, 3, *size) for size in [(8, 8), (8, 12), (6, 10)] * 4]
    texts = torch.randn(2, 5, 32)

    def predict(noise: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return denoiser(noise, torch.full((2,), 500), texts, return_dict=False)[0]

    alone = [predict(noise) for noise in noises]
    with ThreadPoolExecutor(3) as pool:
        for together, by_itself in zip(pool.map(predict, noises), alone, strict=True):
            torch.testing.assert_close(together, by_itself)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_the_checkpointing_function_is_given_back(before: bool) -> None:
    """Whoever sets it, and whether before or after the conversion: it is called, and with a block that can be run."""
    denoiser = make_tiny("latte").train()
    calls = []

    def checkpoint(block: Any, *args: Any) -> Any:
        calls.append(block)
        return torch.utils.checkpoint.checkpoint(block, *args, use_reentrant=True)

    if before:
        denoiser.enable_gradient_checkpointing(checkpoint)
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3, init="random")
    if not before:
        denoiser.enable_gradient_checkpointing(checkpoint)
    for parameter in denoiser.pos_embed.parameters():  # a reentrant checkpoint asks for an input with a gradient
        parameter.requires_grad_(True)
    run(denoiser, 8, 12).square().mean().backward()
    assert len(calls) == 4
    assert all(parameter.grad is not None for parameter in fusion.parameters())
    assert isinstance(getattr(denoiser, CHECKPOINT), NotedCheckpoint)
    fusion.detach()
    assert getattr(denoiser, CHECKPOINT) is checkpoint
