"""Joint attention of text and image: what of it stays, what its block stands in for, where its grid comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import Profile, profile_of, record
from deltaconv_distill.analysis.ablation import _Windowed
from deltaconv_distill.analysis.attention import probabilities, text_shares
from deltaconv_distill.analysis.hooks import watched
from deltaconv_distill.analysis.windows import WINDOW_ONLY
from deltaconv_distill.conversion.known_models import build_denoiser
from deltaconv_distill.conversion.model_inputs import predict
from deltaconv_distill.conversion.text_share import PRIOR
from diffusers.models.attention_processor import PAGJointAttnProcessor2_0
from diffusers.models.transformers.transformer_flux2 import Flux2KVAttnProcessor, Flux2KVParallelSelfAttnProcessor
from peft import LoraConfig
from tiny_denoisers import TEXT_TOKENS, make_tiny, run, tiny_inputs, zero_queries
from torch import nn

JOINT = ["sd3", "flux", "flux2", "qwen", "cogview4", "auraflow", "chroma"]
FIRST, LAST, SINGLE = "transformer_blocks.0.attn", "transformer_blocks.1.attn", "single_transformer_blocks.0.attn"


def first_of(name: str) -> str:
    return {"cogview4": "transformer_blocks.0.attn1", "auraflow": f"joint_{FIRST}"}.get(name, FIRST)


def text_tokens_of(name: str) -> int:
    """With AuraFlow's registers, which come before the text's own."""
    return TEXT_TOKENS + (8 if name == "auraflow" else 0)


def convert(denoiser: nn.Module, **options: Any) -> DeltaConvFusion:
    torch.manual_seed(1)
    return DeltaConvFusion.convert(denoiser, kernel_size=3, init="random", **options)


def outputs_of(denoiser: nn.Module, layer: str, size: tuple[int, int]) -> Any:
    """What one attention returns in a forward, or all parts of it."""
    kept: list[Any] = []
    handle = denoiser.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    run(denoiser, *size)
    handle.remove()
    return kept[0]


@torch.no_grad()
@pytest.mark.parametrize("name", JOINT)
def test_text_attends_to_everything_as_before(name: str) -> None:
    """In the first block, whose inputs the conversion does not change."""
    denoiser = make_tiny(name)
    image, text = outputs_of(denoiser, first_of(name), (8, 12))
    convert(denoiser)
    student_image, student_text = outputs_of(denoiser, first_of(name), (8, 12))
    torch.testing.assert_close(student_text, text, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(student_image, image, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["flux", "flux2", "auraflow", "chroma"])
def test_text_of_a_sequence_attends_to_everything_as_before(name: str) -> None:
    """The first single block, with the attention of the double one left alone."""
    denoiser, text = make_tiny(name), text_tokens_of(name)
    layer = "single_transformer_blocks.0.attn"
    before = outputs_of(denoiser, layer, (8, 12))
    convert(denoiser, only=layer)
    after = outputs_of(denoiser, layer, (8, 12))
    torch.testing.assert_close(after[:, :text], before[:, :text], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(after[:, text:], before[:, text:], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", JOINT)
def test_student_is_text_part_and_block(name: str) -> None:
    """By an independent route: a long text that says one thing turns the attention over the text into its value.

    With shares of zero the student is bias and block alone; each head's share then adds that share of its value.
    """
    denoiser = make_tiny(name)
    fusion = convert(denoiser, only=first_of(name))
    attention = denoiser.get_submodule(first_of(name))
    share = fusion.blocks[first_of(name)].text_share.weight
    project = attention.to_v if name == "cogview4" else attention.add_v_proj
    project.weight.zero_()  # every text token has the value b_v
    if project.bias is None:  # as AuraFlow's
        project.bias = nn.Parameter(torch.randn(16))
    share.zero_()
    alone, _ = outputs_of(denoiser, first_of(name), (8, 8))
    share.copy_(torch.tensor([0.25, 0.5]))
    both, _ = outputs_of(denoiser, first_of(name), (8, 8))
    value = project.bias.unflatten(0, (2, -1)) * share[:, None]
    expected = attention.to_out[0].weight @ value.flatten()
    torch.testing.assert_close(both - alone, expected.expand_as(both), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", JOINT)
def test_recorded_target_is_what_the_text_part_leaves(name: str) -> None:
    """In the teacher's run: with the target in the block's place, the student's output would be the teacher's."""
    denoiser = make_tiny(name)
    teacher, _ = outputs_of(denoiser, first_of(name), (6, 10))
    fusion = convert(denoiser)
    block = fusion.blocks[first_of(name)]
    with fusion.teacher(), fusion.record_attention() as calls:
        run(denoiser, 6, 10)
    call = calls[first_of(name)]
    assert call.input.shape == call.output.shape == (2, 3, 5, 16)
    student, _ = outputs_of(denoiser, first_of(name), (6, 10))
    text_part = student - block(call.input).flatten(1, 2)
    torch.testing.assert_close(text_part + call.output.flatten(1, 2), teacher, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", JOINT)
def test_shares_learn(name: str) -> None:
    denoiser = make_tiny(name)
    fusion = convert(denoiser)
    joint = [block for layer, block in fusion.blocks.items() if not layer.endswith("attn2")]
    assert all(torch.equal(block.text_share.weight, torch.full((2,), PRIOR)) for block in joint)
    run(denoiser).square().mean().backward()
    assert all(block.text_share.weight.grad.abs().min() > 0 for block in joint)


@torch.no_grad()
@pytest.mark.parametrize("name", JOINT)
def test_measured_shares_are_where_blocks_start(name: str, tmp_path: Path) -> None:
    """Image queries of zero attend to all tokens alike: n of n + N is the text's. A profile keeps it in its file."""
    denoiser = make_tiny(name)
    zero_queries(denoiser)
    with record(denoiser) as recording:
        run(denoiser, 8, 12)
    profile = Profile.load(profile_of(recording).save(tmp_path / "profile.json"))
    fusion = DeltaConvFusion.convert(denoiser, kernel_size=3, profile=profile)
    for layer, block in fusion.blocks.items():
        if layer.endswith("attn2"):
            assert profile.layers[layer].text_share is None
            continue
        expected = torch.full((2,), text_tokens_of(name) / (text_tokens_of(name) + 24))
        torch.testing.assert_close(block.text_share.weight, expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(profile.layers[layer].timesteps[0].text_share, expected, rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", [*JOINT, "hunyuan-dit", "lumina2", "lumina-next", "z-image"])
def test_windows_as_large_as_the_image_change_nothing(name: str) -> None:
    """In the image's part alone, put together with the text's again; and where positions turn queries and keys."""
    denoiser = make_tiny(name)
    before = run(denoiser, 8, 12)
    whole, narrow = (_Windowed(size, WINDOW_ONLY) for size in (11, 1))
    with watched(denoiser, whole):
        torch.testing.assert_close(run(denoiser, 8, 12), before, rtol=1e-4, atol=1e-5)
    with watched(denoiser, narrow):
        assert not torch.allclose(run(denoiser, 8, 12), before, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("sd3", FIRST),
        ("sd3", LAST),
        ("flux", FIRST),
        ("flux", SINGLE),
        ("flux2", FIRST),
        ("flux2", SINGLE),
        ("qwen", FIRST),
        ("cogview4", first_of("cogview4")),
        ("auraflow", first_of("auraflow")),
        ("lumina2", "layers.0.attn"),
        ("z-image", "layers.0.attention"),
        ("z-image", "noise_refiner.0.attention"),
        ("auraflow", SINGLE),
        ("chroma", SINGLE),
    ],
)
def test_what_is_recorded_of_a_joint_attention(name: str, layer: str) -> None:
    """Share and image part, put together again by hand, are what the attention gives out."""
    denoiser = make_tiny(name)
    seen: dict[str, Any] = {}

    def watch(call: Any) -> None:
        if call.layer == layer:
            seen["call"] = call

    with watched(denoiser, watch):
        run(denoiser, 8, 12)
    call = seen["call"]
    assert call.grid == (4, 6)
    queries = torch.arange(24)
    text, image = call.joint.streams(call.hidden_states)
    share = text_shares(text, image, queries)[..., None]
    projected = call.project(call.hidden_states)
    over_image = torch.cat([weights @ projected.value for _, weights in probabilities(projected, queries)], dim=-2)
    scores = projected.query @ text.key.transpose(1, 2).mT * projected.scale
    over_text = scores.softmax(-1) @ text.value.transpose(1, 2)
    output = call.project_out(share * over_text + (1 - share) * over_image, torch.float32)
    torch.testing.assert_close(output, call.output, rtol=1e-4, atol=1e-5)


def test_what_stays_keeps_its_gradients_and_adapters(caplog: pytest.LogCaptureFixture) -> None:
    """All of a joint attention but, in the last block of SD3, what only its unused text output needs."""
    denoiser = make_tiny("sd3").requires_grad_(True)
    fusion = convert(denoiser)
    frozen = {name for name, parameter in denoiser.named_parameters() if not parameter.requires_grad}
    last = denoiser.transformer_blocks[1].attn
    assert last.context_pre_only
    second = denoiser.transformer_blocks[0].attn2.named_parameters()
    plain = {f"transformer_blocks.0.attn2.{name}" for name, _ in second if not name.startswith("deltaconv.")}
    unused = {"add_q_proj", "norm_added_q", "to_k", "norm_k", "to_v"}
    idle = {f"transformer_blocks.1.attn.{name}" for name, _ in last.named_parameters() if name.split(".")[0] in unused}
    assert frozen == plain | idle
    run(denoiser).square().mean().backward()
    for name, parameter in denoiser.named_parameters():
        if ".attn." in name and parameter.requires_grad:
            assert parameter.grad is not None, name
    denoiser.add_adapter(LoraConfig(r=2, target_modules=["attn.to_q", "attn.to_k"]))
    assert "skipped 1 of 4 adapter layers" in caplog.text
    fusion.detach()
    assert all(parameter.requires_grad for name, parameter in denoiser.named_parameters() if name in frozen)


def test_parameters_that_blocks_make_superfluous() -> None:
    denoiser = make_tiny("flux")
    before = sum(parameter.numel() for parameter in denoiser.parameters())
    report = convert(denoiser).report
    assert report.parameters_before == before
    assert report.parameters_after == before + sum(layer.block_parameters for layer in report.layers)


IDS = {
    "two images": lambda ids: torch.cat([ids, ids + torch.tensor([1.0, 0, 0])]),
    "by columns": lambda ids: ids[:, [0, 2, 1]],
    "a gap": lambda ids: ids * 2,
}


@torch.no_grad()
@pytest.mark.parametrize("change", IDS)
def test_positions_of_anything_but_one_image_are_refused(change: str) -> None:
    denoiser = make_tiny("flux")
    convert(denoiser)
    inputs = tiny_inputs(denoiser, 8, 12)
    ids = IDS[change](inputs["img_ids"])
    image = torch.randn(2, len(ids), 16)
    with pytest.raises(ValueError, match="img_ids: expected the positions of one image, row by row, got"):
        denoiser(**inputs | {"img_ids": ids, "hidden_states": image})


@torch.no_grad()
def test_positions_in_half_precision_of_a_batch_or_by_place() -> None:
    """As pipelines give them: rounded where a side is long; and with a batch axis, which diffusers still takes."""
    denoiser = make_tiny("flux")
    fusion = convert(denoiser)
    inputs = tiny_inputs(denoiser, 4, 1200)
    expected = denoiser(**inputs).sample
    for ids in (inputs["img_ids"].bfloat16(), inputs["img_ids"].expand(2, -1, -1)):
        with fusion.record_attention() as calls:
            denoiser(**inputs | {"img_ids": ids})
        assert calls[FIRST].input.shape[1:3] == (2, 600)
    names = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "img_ids", "txt_ids")
    by_place = [inputs.pop(key) for key in names]
    torch.testing.assert_close(denoiser(*by_place, **inputs).sample, expected)


@torch.no_grad()
def test_a_size_that_is_said() -> None:
    denoiser = make_tiny("flux")
    fusion = convert(denoiser)
    expected = run(denoiser, 8, 12)
    with fusion.at_size(8, 12):
        torch.testing.assert_close(run(denoiser, 8, 12), expected)
        with pytest.raises(ValueError, match="img_ids: expected 4 x 6 tokens of the size that at_size gave, got 16"):
            run(denoiser, 8, 8)
    run(denoiser, 8, 8)


@torch.no_grad()
def test_a_text_mask_of_cogview4_is_refused() -> None:
    """Its processor adds such a mask to the scores, zeros and ones, instead of leaving tokens out."""
    denoiser = make_tiny("cogview4")
    fusion = convert(denoiser)
    inputs = tiny_inputs(denoiser, 8, 8) | {"attention_mask": torch.ones(2, TEXT_TOKENS)}
    with pytest.raises(ValueError, match="attention_mask: a ΔConvBlock has no keys to mask"):
        denoiser(**inputs)
    with fusion.teacher():
        denoiser(**inputs)


@torch.no_grad()
def test_keys_of_reference_images_are_refused() -> None:
    """As FLUX.2 Klein's KV pipeline keeps them from its first step on."""
    denoiser = make_tiny("flux2")
    for module in denoiser.modules():
        if hasattr(module, "set_processor"):
            double = hasattr(module, "add_q_proj")
            module.set_processor(Flux2KVAttnProcessor() if double else Flux2KVParallelSelfAttnProcessor())
    fusion = convert(denoiser)
    inputs = tiny_inputs(denoiser, 8, 12)
    with fusion.teacher():
        _, cache = denoiser(**inputs, kv_cache_mode="extract", num_ref_tokens=4, return_dict=False)
    for options in (
        {"kv_cache_mode": "extract", "num_ref_tokens": 4},
        {"kv_cache_mode": "cached", "kv_cache": cache},
    ):
        with pytest.raises(ValueError, match="kv_cache_mode: a ΔConvBlock has no keys of reference images"):
            denoiser(**inputs, **options)
        with fusion.teacher():
            denoiser(**inputs, **options)


@torch.no_grad()
def test_texts_of_different_lengths_in_lumina2_are_refused() -> None:
    """The shorter one's image tokens begin earlier in the sequence. Padding that both have is no padding at all."""
    denoiser = make_tiny("lumina2")
    fusion = convert(denoiser)
    inputs = tiny_inputs(denoiser, 8, 12)
    inputs["encoder_attention_mask"][:, -2:] = False
    shorter = inputs | {key: inputs[key][:, :-2] for key in ("encoder_hidden_states", "encoder_attention_mask")}
    torch.testing.assert_close(denoiser(**inputs).sample, denoiser(**shorter).sample, rtol=1e-4, atol=1e-5)
    inputs["encoder_attention_mask"][1, -3] = False
    with pytest.raises(ValueError, match="attention_mask: a ΔConvBlock has no keys to mask"):
        denoiser(**inputs)
    with fusion.teacher():
        denoiser(**inputs)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 12), (8, 16)], ids=["padded", "whole"])
def test_z_image_counts_padding_as_text(size: tuple[int, int]) -> None:
    """24 image tokens are filled up to 32, of 32 none is added. A shorter text in the batch is masked.

    In the first block: what is recorded for it, put into its place, gives its output; shares are those of the tokens.
    """
    denoiser = make_tiny("z-image")
    inputs = tiny_inputs(denoiser, *size)
    inputs["cap_feats"][1] = torch.randn(33, 32)  # of 64 tokens with its padding, the other one of 32
    layer, refining = "layers.0.attention", "noise_refiner.0.attention"
    kept: list[Any] = []
    handle = denoiser.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    before = predict(denoiser, inputs)
    fusion = convert(denoiser, only=layer)
    with fusion.teacher(), fusion.record_attention() as calls:
        assert torch.equal(predict(denoiser, inputs), before)
    student = predict(denoiser, inputs)
    handle.remove()
    tokens, call = size[0] * size[1] // 4, calls[layer]
    delta = fusion.blocks[layer](call.input).flatten(1, 2)
    output = kept[-1][:, :tokens] - delta + call.output.flatten(1, 2)
    torch.testing.assert_close(output, kept[0][:, :tokens], rtol=1e-4, atol=1e-5)
    beside = slice(tokens, 32 + 32)  # of the longer one there is more
    torch.testing.assert_close(kept[-1][:, beside], kept[0][:, beside], rtol=1e-4, atol=1e-5)
    shorter = {key: value[:1] for key, value in inputs.items()}
    torch.testing.assert_close(predict(denoiser, shorter), student[:1], rtol=1e-4, atol=1e-5)
    fusion.detach()
    zero_queries(denoiser)
    with record(denoiser) as recording:
        predict(denoiser, shorter)
    profile = profile_of(recording)
    assert profile.layers[layer].text_share[0] == pytest.approx((64 - tokens) / 64)
    assert profile.layers[refining].text_share[0] == pytest.approx((32 - tokens) / 32)


@torch.no_grad()
def test_lists_of_anything_but_one_image_an_example_are_refused() -> None:
    denoiser = make_tiny("z-image")
    convert(denoiser)
    inputs = tiny_inputs(denoiser, 8, 12)
    image = inputs["x"][0]
    for images in ([image, image[..., :8]], [image.expand(-1, 2, -1, -1)] * 2, [[image], [image]]):
        with pytest.raises(ValueError, match="x: expected one image an example"):
            denoiser(**inputs | {"x": images})


@torch.no_grad()
def test_perturbed_attention_guidance_is_refused() -> None:
    denoiser = make_tiny("sd3")
    convert(denoiser)
    denoiser.transformer_blocks[0].attn.processor = PAGJointAttnProcessor2_0()
    with pytest.raises(RuntimeError, match="PAGJointAttnProcessor2_0: ΔConvBlocks have no attention map"):
        run(denoiser)
    run(denoiser)  # the plain processor is back


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_fused_projections(name: str) -> None:
    denoiser = make_tiny(name)
    teacher = run(denoiser)
    fusion = convert(denoiser)
    student = run(denoiser)
    denoiser.fuse_qkv_projections()
    torch.testing.assert_close(run(denoiser), student)
    if name == "flux":  # diffusers' fused processor of SD3 fails on the second attention of dual blocks
        with fusion.teacher():
            torch.testing.assert_close(run(denoiser), teacher)
    denoiser.unfuse_qkv_projections()
    torch.testing.assert_close(run(denoiser), student)


@torch.no_grad()
def test_mask_and_missing_grid_are_refused() -> None:
    denoiser = make_tiny("sd3")
    convert(denoiser)
    attention = denoiser.get_submodule(FIRST)
    image, text = torch.zeros(1, 16, 16), torch.zeros(1, 3, 16)
    with pytest.raises(RuntimeError, match="called without its grid"):
        attention(image, encoder_hidden_states=text)
    with pytest.raises(ValueError, match="expected 2 x 4 = 8 tokens, got 16"):
        attention(image, encoder_hidden_states=text, deltaconv_route=(2, 4, "student"))
    with pytest.raises(ValueError, match="attention_mask"):
        attention(image, encoder_hidden_states=text, attention_mask=text, deltaconv_route=(4, 4, "student"))


def test_automatic_sizes_and_gate() -> None:
    report = DeltaConvFusion.convert(build_denoiser("flux-dev")).report
    assert report.kernel_sizes_from == "preset FLUX"
    assert len(report.layers) == 57
    assert {(layer.kernel_size, layer.gate, layer.stride) for layer in report.layers} == {(13, "sigmoid", 2)}
    report = DeltaConvFusion.convert(build_denoiser("sd35-medium")).report
    assert report.kernel_sizes_from == "preset SD3"
    assert len(report.layers) == 24 + 13


def masked(denoiser: nn.Module, width: int = 12) -> dict[str, Any]:
    """Inputs of Qwen-Image in which the second example's last two text tokens are padding."""
    inputs = tiny_inputs(denoiser, 8, width)
    mask = torch.ones(2, TEXT_TOKENS, dtype=torch.bool)
    mask[1, -2:] = False
    return inputs | {"encoder_hidden_states_mask": mask}


@torch.no_grad()
def test_padding_of_the_text_counts_for_nothing() -> None:
    denoiser = make_tiny("qwen")
    teacher = denoiser(**masked(denoiser)).sample
    fusion = convert(denoiser)
    inputs = masked(denoiser)
    student = denoiser(**inputs).sample
    assert not torch.allclose(student, run(denoiser, 8, 12), atol=1e-4)
    inputs["encoder_hidden_states"][1, -2:] = 7
    torch.testing.assert_close(denoiser(**inputs).sample, student, rtol=1e-4, atol=1e-5)
    with fusion.teacher():
        assert torch.equal(denoiser(**masked(denoiser)).sample, teacher)


@torch.no_grad()
def test_padding_is_told_in_the_analysis() -> None:
    """Uniform attention of a padded example: 3 of 3 + 24 tokens are text, of the other one 5 of 5 + 24."""
    denoiser = make_tiny("qwen")
    for block in denoiser.transformer_blocks:
        block.attn.to_q.weight.zero_()
        block.attn.to_q.bias.zero_()
    with record(denoiser) as recording:
        before = denoiser(**masked(denoiser)).sample
    profile = profile_of(recording)
    expected = torch.full((2,), (5 / 29 + 3 / 27) / 2)
    torch.testing.assert_close(profile.layers[FIRST].text_share, expected, rtol=1e-4, atol=0)
    with watched(denoiser, _Windowed(11, WINDOW_ONLY)):
        torch.testing.assert_close(denoiser(**masked(denoiser)).sample, before, rtol=1e-4, atol=1e-5)


SHAPES = {
    "two images": [[(1, 4, 3), (1, 4, 3)]] * 2,
    "frames": [[(2, 4, 3)]] * 2,
    "examples of two sizes": [[(1, 4, 6)], [(1, 6, 4)]],
}


@torch.no_grad()
@pytest.mark.parametrize("shapes", SHAPES)
def test_shapes_of_anything_but_one_image_are_refused(shapes: str) -> None:
    denoiser = make_tiny("qwen")
    convert(denoiser)
    with pytest.raises(ValueError, match=r"img_shapes: expected \(1, H, W\) of one image, the same for all examples"):
        denoiser(**tiny_inputs(denoiser, 8, 12) | {"img_shapes": SHAPES[shapes]})


def masked_chroma(denoiser: nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    """Inputs of Chroma in which the second example's last two text tokens are padding."""
    mask = torch.ones(2, TEXT_TOKENS + 24, dtype=dtype)
    mask[1, TEXT_TOKENS - 2 : TEXT_TOKENS] = 0
    return tiny_inputs(denoiser, 8, 12) | {"attention_mask": mask}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=["left out", "counts less"])
def test_masks_of_chroma(dtype: torch.dtype) -> None:
    """The pipeline's mask is of a floating-point type and added to the scores: padding then counts, but less.

    In the first block: text as in the teacher; what is recorded for the block, put into its place, gives its output.
    """
    denoiser = make_tiny("chroma")
    inputs = masked_chroma(denoiser, dtype)
    kept: list[Any] = []
    handle = denoiser.get_submodule(FIRST).register_forward_hook(lambda module, args, output: kept.append(output))
    before = denoiser(**inputs).sample
    with record(denoiser) as recording, watched(denoiser, _Windowed(11, WINDOW_ONLY)):
        torch.testing.assert_close(denoiser(**inputs).sample, before, rtol=1e-4, atol=1e-5)
    assert set(profile_of(recording).layers) == {FIRST, SINGLE}
    fusion = convert(denoiser)
    with fusion.teacher(), fusion.record_attention() as calls:
        assert torch.equal(denoiser(**inputs).sample, before)
    student = denoiser(**inputs).sample
    handle.remove()
    (image, text), (student_image, student_text) = kept[0], kept[-1]
    words = slice(None if dtype.is_floating_point else TEXT_TOKENS - 2)  # what left-out padding gathers is not used
    torch.testing.assert_close(student_text[:, words], text[:, words], rtol=1e-4, atol=1e-5)
    call = calls[FIRST]
    text_part = student_image - fusion.blocks[FIRST](call.input).flatten(1, 2)
    torch.testing.assert_close(text_part + call.output.flatten(1, 2), image, rtol=1e-4, atol=1e-5)
    inputs["encoder_hidden_states"][1, -2:] = 7
    assert torch.allclose(denoiser(**inputs).sample, student, atol=1e-5) is not dtype.is_floating_point
