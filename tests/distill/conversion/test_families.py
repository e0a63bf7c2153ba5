"""Which classes of diffusers are converted and which are refused: one table for errors and documents."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

import diffusers
import pytest
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.families import FAMILIES, REFUSED, refused_table, supported_table, why_refused

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
DENOISERS = ("Transformer", "UNet", "DiT", "UVit", "ControlNet", "UniDiffuserModel", "T5FilmDecoder")
NOT_DENOISERS = ("UniDiffuserTextDecoder", "LongCatAudioDiTVae")


def denoisers_of_diffusers() -> Iterable[str]:
    for name in dir(diffusers):
        if not any(part in name for part in DENOISERS) or name in NOT_DENOISERS:
            continue
        kind = getattr(diffusers, name)
        if inspect.isclass(kind) and issubclass(kind, diffusers.ModelMixin):
            yield name


def test_every_denoiser_of_diffusers_is_in_one_table() -> None:
    supported = {kind.__name__ for kind in FAMILIES}
    refused = [name for classes in REFUSED.values() for name in classes]
    assert len(refused) == len(set(refused))
    assert not supported & set(refused)
    assert set(denoisers_of_diffusers()) <= supported | set(refused)
    assert all(hasattr(diffusers, name) for name in refused)


def test_the_page_has_the_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join(supported_table()) in text
    assert "\n".join(refused_table()) in text


def test_a_refusal_is_one_line_with_its_reason() -> None:
    sana = diffusers.SanaTransformer2DModel(
        num_layers=1,
        num_attention_heads=1,
        attention_head_dim=4,
        num_cross_attention_heads=1,
        cross_attention_head_dim=4,
        cross_attention_dim=4,
        caption_channels=4,
        sample_size=4,
        in_channels=4,
        out_channels=4,
    )
    with pytest.raises(TypeError) as error:
        DeltaConvFusion.convert(sana, kernel_size=3)
    reason = "its attention is linear in the tokens already"
    assert why_refused("SanaTransformer2DModel") == reason
    assert str(error.value) == (
        f"pipe_or_denoiser: a SanaTransformer2DModel cannot be converted, {reason}; see docs/models.md"
    )
