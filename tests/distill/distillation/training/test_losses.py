"""The three losses: their values, and that each alone reaches every block."""

import pytest
import torch
import torch.nn.functional as F
from deltaconv_distill.distillation import LossTerms, LossWeights, distillation_losses, feature_loss
from distilling import make_distiller


@pytest.mark.parametrize("term", ["noise", "kd", "feat"])
def test_each_term_alone_reaches_every_parameter_of_the_student(term):
    distiller = make_distiller()
    terms = distiller.losses(distiller.stream.batch(0))
    getattr(terms, term).backward()
    for name, parameter in distiller.fusion.named_parameters():
        # the last block's hidden state lies behind its own output only, so even "feat" reaches all of them
        assert parameter.grad is not None, f"{name} has no gradient from {term}"
        assert parameter.grad.abs().sum() > 0, f"{name} has a zero gradient from {term}"


@pytest.mark.parametrize("term", ["noise", "kd", "feat"])
def test_one_step_on_each_term_alone_lowers_it(term):
    distiller = make_distiller(learning_rate=1e-3, lr_scheduler="constant", **_only(term))
    batch = distiller.stream.batch(0)
    before = getattr(distiller.losses(batch), term).item()
    for _ in range(5):
        getattr(distiller.losses(batch), term).backward()
        distiller.optimizer.step()
        distiller.optimizer.zero_grad()
    assert getattr(distiller.losses(batch), term).item() < before


def test_the_frozen_weights_get_no_gradient():
    distiller = make_distiller()
    distiller.losses(distiller.stream.batch(0)).total(LossWeights()).backward()
    trained = {id(parameter) for parameter in distiller.fusion.parameters()}
    frozen = [parameter for parameter in distiller.task.denoiser.parameters() if id(parameter) not in trained]
    assert frozen
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)


def test_values_follow_the_definition():
    student, teacher, target = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = {"a": torch.ones(2, 5, 3), "b": torch.zeros(2, 5, 3)}
    taught = {"a": torch.zeros(2, 5, 3), "b": torch.full((2, 5, 3), 2.0)}
    terms = distillation_losses(student, teacher, target, hidden, taught)
    torch.testing.assert_close(terms.noise, F.mse_loss(student, target))
    torch.testing.assert_close(terms.kd, F.mse_loss(student, teacher))
    assert terms.feat.item() == 1.0 + 4.0
    total = terms.total(LossWeights(noise=2.0, kd=3.0, feat=0.5))
    torch.testing.assert_close(total, 2 * terms.noise + 3 * terms.kd + 0.5 * terms.feat)


def test_the_default_weights_are_the_papers():
    one = torch.ones(())
    assert LossTerms(one, one, one).total(LossWeights()).item() == pytest.approx(2.001)


def test_the_teachers_side_is_constant():
    student = torch.zeros(1, 4, 2, 2, requires_grad=True)
    teacher = torch.ones(1, 4, 2, 2, requires_grad=True)
    hidden, taught = torch.zeros(1, 4, 2, requires_grad=True), torch.ones(1, 4, 2, requires_grad=True)
    terms = distillation_losses(student, teacher, torch.zeros(1, 4, 2, 2), {"a": hidden}, {"a": taught})
    terms.total(LossWeights()).backward()
    assert student.grad is not None
    assert hidden.grad is not None
    assert teacher.grad is None
    assert taught.grad is None


def test_half_precision_is_compared_in_float32():
    student = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)
    terms = distillation_losses(student, student - 300, student, {"a": student}, {"a": student})
    assert terms.kd.item() == 90_000.0  # beyond float16's range


@pytest.mark.parametrize("taught", [{}, {"b": torch.zeros(1, 2, 2)}], ids=["none", "another-layer"])
def test_features_of_other_layers_are_an_error(taught):
    with pytest.raises(ValueError, match="expected the same layers"):
        feature_loss({"a": torch.zeros(1, 2, 2)}, taught)


def _only(term: str) -> dict[str, float]:
    return {f"w_{name}": float(name == term) for name in ("noise", "kd", "feat")}
