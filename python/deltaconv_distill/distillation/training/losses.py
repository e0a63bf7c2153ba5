"""The three losses of the paper's distillation (arXiv 2504.21292, section on training)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term in the sum that is minimised; the paper's values."""

    noise: float = 1.0
    kd: float = 1.0
    feat: float = 0.001


@dataclass(frozen=True)
class LossTerms:
    """The unweighted terms, scalar float32 tensors.

    noise: MSE(student prediction, target of the scheduler's prediction type)
    kd:    MSE(student prediction, teacher prediction)
    feat:  sum over blocks of MSE(hidden state after the self-attention residual add, teacher's hidden state there)
    """

    noise: torch.Tensor
    kd: torch.Tensor
    feat: torch.Tensor

    def total(self, weights: LossWeights) -> torch.Tensor:
        return weights.noise * self.noise + weights.kd * self.kd + weights.feat * self.feat


def distillation_losses(
    student: torch.Tensor,
    teacher: torch.Tensor,
    target: torch.Tensor,
    student_features: Mapping[str, torch.Tensor],
    teacher_features: Mapping[str, torch.Tensor],
    example_weights: torch.Tensor | None = None,
) -> LossTerms:
    """Compare the student's denoiser pass with the teacher's pass on the same input.

    Args:
        student, teacher, target: [B, C, H, W] predictions and what the scheduler asks for, any float dtype.
        student_features, teacher_features: layer name -> [B, L, C] hidden state after the self-attention residual add.
        example_weights: [B] factors of each example's squared errors of predictions, or None for 1.

    Raises:
        ValueError: the two passes recorded different layers.
    """
    return LossTerms(
        noise=_mse(student, target, example_weights),
        kd=_mse(student, teacher, example_weights),
        feat=feature_loss(student_features, teacher_features),
    )


def feature_loss(student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Sum over layers of the mean squared difference of hidden states; the teacher's carry no gradient."""
    if student.keys() != teacher.keys() or not student:
        raise ValueError(
            "student_features and teacher_features: expected the same layers, at least one, "
            f"got {sorted(student)} and {sorted(teacher)}"
        )
    return torch.stack([_mse(hidden, teacher[name]) for name, hidden in student.items()]).sum()


def _mse(student: torch.Tensor, reference: torch.Tensor, example_weights: torch.Tensor | None = None) -> torch.Tensor:
    student, reference = student.float(), reference.detach().float()
    if example_weights is None:
        return F.mse_loss(student, reference)
    errors = F.mse_loss(student, reference, reduction="none").flatten(1).mean(dim=1)
    return (errors * example_weights).mean()
