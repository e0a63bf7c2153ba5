"""Stage 1: every block learns its own attention's output from the teacher's own input at that layer.

The layers do not depend on one another, so one forward of the teacher serves all of them, and no gradient passes
through the denoiser. What is linear in a block, `out_proj` and `pool_proj`, has a best value that needs no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from deltaconv_kernels import DeltaConvBlock

from ...conversion import DeltaConvFusion
from ...conversion.hooks import AttentionCalls
from ...conversion.kinds.joint_attention import JointStandIn
from ..data.batches import Batch
from ..task import DenoisingTask

# Pseudo-observations of the values before the fit, as a share of what the batches show. The average of an image is one
# observation for the pool, however many tokens the image has, so it can be overfitted where the local part cannot.
LOCAL_PRIOR, POOL_PRIOR = 0.01, 0.1


@torch.no_grad()
def attention_calls(fusion: DeltaConvFusion, task: DenoisingTask, batch: Batch) -> AttentionCalls:
    """What every self-attention of the teacher took in and gave out, by layer name, in one forward on `batch`."""
    with fusion.teacher(), fusion.record_attention() as calls:
        task.predict(batch)
    return calls


def local_loss(fusion: DeltaConvFusion, calls: AttentionCalls) -> Tensor:
    """The blocks' squared error against the attentions' outputs, relative to these, averaged over the layers.

    Returns:
        A float32 scalar with a graph into the blocks alone, with the shares of the text in those of joint attentions; 1
        is the error of blocks that return zeros.
    """
    errors = []
    for name, block in fusion.blocks.items():
        call = calls[name]
        target = call.output.float()
        given = block(call.input.to(block.in_proj.weight.dtype)).float()
        if call.text is not None:  # what other shares of the text than the recorded ones would change
            attention = cast(JointStandIn, fusion.attention(name))
            change = attention.text_part(call.text.gathered).float() - call.text.given.float()
            given = given + change.view_as(given)
        error = F.mse_loss(given, target)
        errors.append(error / target.pow(2).mean().clamp_min(torch.finfo(torch.float32).tiny))
    return torch.stack(errors).mean()


@torch.no_grad()
def fit_projections(fusion: DeltaConvFusion, task: DenoisingTask, batches: Iterable[Batch]) -> None:
    """Set every `out_proj` and `pool_proj` by ridge regression of the attention's output on the gated features.

    Nothing else of the blocks changes. The ridge draws towards the present values, so directions that the batches do
    not show keep them. Takes (inter + dim + 1)² float64 numbers a layer while it runs.

    Args:
        fusion, task: attached, and of the denoiser that it is attached to.
        batches: tens of examples are enough; each costs one forward of the teacher and one of the blocks.
    """
    fit_to_calls(fusion, (attention_calls(fusion, task, batch) for batch in batches))


@torch.no_grad()
def fit_to_calls(fusion: DeltaConvFusion, passes: Iterable[AttentionCalls]) -> None:
    """As `fit_projections`, from what the attentions took in and gave out in each of some passes of the teacher."""
    regressions = {name: Regression(block) for name, block in fusion.blocks.items()}
    for calls in passes:
        for name, call in calls.items():
            regressions[name].add(call.input, call.output)
    for regression in regressions.values():
        regression.solve()


class Regression:
    """The normal equations of one block: what remains of the target, on [local features, image mean, 1]."""

    def __init__(self, block: DeltaConvBlock) -> None:
        self.block = block
        weight = block.out_proj.weight
        width = block.out_proj.in_features + block.dim + 1
        self.gram = torch.zeros(width, width, dtype=torch.float64, device=weight.device)
        self.moment = torch.zeros(width, block.dim, dtype=torch.float64, device=weight.device)

    def add(self, x: Tensor, target: Tensor) -> None:
        """x, target: [B, H, W, dim]."""
        x = x.to(self.block.in_proj.weight.dtype)
        features: list[Tensor] = []
        handle = self.block.out_proj.register_forward_pre_hook(lambda linear, args: features.append(args[0]))
        with torch.autocast(x.device.type, enabled=False):
            missing = target - self.block(x)
        handle.remove()
        mean = x.mean(dim=(1, 2), keepdim=True).expand_as(x)
        rows = torch.cat([features[0], mean, torch.ones_like(x[..., :1])], dim=-1).flatten(0, 2).double()
        self.gram += rows.mT @ rows
        self.moment += rows.mT @ missing.flatten(0, 2).double()

    def solve(self) -> None:
        """Add the solution to the block's parameters; without a batch, leave them."""
        energy = self.gram.diagonal()
        if not energy.any():
            return
        local = self.block.out_proj.in_features
        ridge = torch.zeros_like(energy)
        ridge[:local] = LOCAL_PRIOR * energy[:local].mean()
        ridge[local:-1] = POOL_PRIOR * energy[local:-1].mean()
        ridge += torch.finfo(torch.float32).eps * energy.max()  # features that are all zero keep their weights
        change = torch.linalg.solve(self.gram + ridge.diag(), self.moment).mT.to(self.block.out_proj.weight.dtype)
        self.block.out_proj.weight.add_(change[:, :local])
        self.block.pool_proj.weight.add_(change[:, local:-1])
        self.block.pool_proj.bias.add_(change[:, -1])
