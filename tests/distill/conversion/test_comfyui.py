"""The nodes for ComfyUI. It comes from no package index: what they use of its model patcher is stated here."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.known_models import KNOWN_MODELS
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from ldm_checkpoint import as_one_file
from tiny_pipelines import tiny_pixart_transformer, tiny_sd, tiny_sd_unet
from torch import nn

FOLDER = Path(__file__).parents[3] / "integrations" / "comfyui"
PREFIX = "model.diffusion_model."
# The first and last of each level, as they are called in the published files v1-5-pruned and sd_xl_base_1.0
PUBLISHED = {
    "sd15": ["input_blocks.1.1", "input_blocks.8.1", "middle_block.1", "output_blocks.3.1", "output_blocks.11.1"],
    "sdxl": ["input_blocks.4.1", "input_blocks.8.1", "middle_block.1", "output_blocks.0.1", "output_blocks.5.1"],
}


@pytest.fixture(scope="module")
def pack():
    """The folder, imported as ComfyUI imports what lies in custom_nodes."""
    spec = importlib.util.spec_from_file_location("deltaconv_comfyui", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.startswith("deltaconv_comfyui")]:
        del sys.modules[name]


@pytest.fixture
def nodes(pack):
    return {name: node() for name, node in pack.NODE_CLASS_MAPPINGS.items()}


class Patcher:
    """What the nodes use of ComfyUI's ModelPatcher, and how that applies object patches."""

    def __init__(self, model, patches=()):
        self.model, self.object_patches = model, dict(patches)

    def clone(self):
        return Patcher(self.model, self.object_patches)

    def add_object_patch(self, name, patch):
        self.object_patches[name] = patch

    def get_model_object(self, name):
        return self.object_patches.get(name) or self.model.get_submodule(name)

    def patched(self, name):
        return self.object_patches[name]


def named(state):
    """An empty module for each weight of the original code's UNet, under its name."""
    root = nn.Module()
    for key, weight in state.items():
        *path, leaf = key.removeprefix("model.").split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(leaf, nn.Parameter(weight, requires_grad=False))
    return root


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_are_those_of_published_checkpoints(pack, name):
    """Each attention's weights, put under our name, are found by diffusers' loader of such files as that layer's."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**KNOWN_MODELS[name].config)
    layers = DeltaConvFusion.layers_of(unet)
    comfyui_name = sys.modules["deltaconv_comfyui.layout"].comfyui_name
    places = {layer: comfyui_name(layer, unet.config.layers_per_block) for layer in layers}
    # the loader counts blocks by their names, so that each needs one
    file = {f"{PREFIX}{side}_blocks.{n}.0.in_layers.0.bias": -1 for side in ("input", "output") for n in range(12)}
    file |= {f"{PREFIX}middle_block.{n}.0.bias": -1 for n in range(3)}
    file |= {f"{PREFIX}{place}.to_q.weight": number for number, place in enumerate(places.values())}
    loaded = convert_ldm_unet_checkpoint(file, {"layers_per_block": unet.config.layers_per_block})
    assert {f"{layer}.to_q.weight": number for number, layer in enumerate(layers)}.items() <= loaded.items()
    assert len(set(places.values())) == len(layers)
    assert {f"{block}.transformer_blocks.0.attn1" for block in PUBLISHED[name]} <= set(places.values())


def test_what_is_no_layer_of_a_unet_is_refused(pack):
    with pytest.raises(ValueError, match=r"layer: expected a self-attention .* got 'transformer_blocks\.0\.attn1'"):
        sys.modules["deltaconv_comfyui.layout"].comfyui_name("transformer_blocks.0.attn1", 2)


@pytest.fixture
def saved(tmp_path):
    """A tiny pipeline's UNet in the original layout, the folder of its blocks, and what these compute in diffusers."""
    pipe = tiny_sd()
    model = named({key: value for key, value in as_one_file(pipe).items() if key.startswith(PREFIX)})
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    fusion.save_pretrained(tmp_path)
    calls = {}
    for layer in fusion.blocks:
        pipe.unet.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: calls.__setitem__(layer, (inputs[0], output))
        )
    with torch.no_grad():
        pipe.unet(torch.randn(2, 4, 8, 12), 5, torch.randn(2, 4, 32))
    return model, tmp_path, calls


def test_blocks_compute_what_they_compute_in_diffusers(nodes, saved):
    model, folder, calls = saved
    (fusion,) = nodes["DeltaConvLoadFusion"].load(str(folder))
    teacher = Patcher(model)
    (student,) = nodes["DeltaConvAttachFusion"].attach(teacher, fusion)
    assert teacher.object_patches == {}
    assert len(student.object_patches) == len(calls) == 7
    by_layer = {patch.layer: patch for patch in student.object_patches.values()}
    for layer, (tokens, expected) in calls.items():
        grid = (8, 12) if tokens.shape[1] == 96 else (4, 6)
        options = {"activations_shape": [2, tokens.shape[2], *grid], "block_index": 0}
        with torch.no_grad():
            result = by_layer[layer](tokens, context=tokens, value=None, transformer_options=options)
        torch.testing.assert_close(result, expected, rtol=0, atol=0, msg=layer)


def test_blocks_take_the_models_type(nodes, saved):
    model, folder, _ = saved
    (student,) = nodes["DeltaConvAttachFusion"].attach(Patcher(model), *nodes["DeltaConvLoadFusion"].load(str(folder)))
    patch = next(iter(student.object_patches.values()))
    tokens = torch.randn(1, 12, patch.block.dim, dtype=torch.bfloat16)
    result = patch(tokens, transformer_options={"activations_shape": [1, patch.block.dim, 3, 4]})
    assert result.dtype == torch.bfloat16


def test_detaching_leaves_other_patches(nodes, saved):
    model, folder, _ = saved
    other = object()
    teacher = Patcher(model, {"model_sampling": other})
    (student,) = nodes["DeltaConvAttachFusion"].attach(teacher, *nodes["DeltaConvLoadFusion"].load(str(folder)))
    (without,) = nodes["DeltaConvDetachFusion"].detach(student)
    assert without.object_patches == {"model_sampling": other}
    assert len(student.object_patches) == 8


def test_what_cannot_be_attached_is_refused(nodes, saved):
    model, folder, _ = saved
    (fusion,) = nodes["DeltaConvLoadFusion"].load(str(folder))
    attach = nodes["DeltaConvAttachFusion"].attach
    (student,) = attach(Patcher(model), fusion)
    with pytest.raises(ValueError, match="model: expected one without ΔConvBlocks"):
        attach(student, fusion)
    with pytest.raises(
        ValueError, match=r"model: expected a self-attention at diffusion_model.input_blocks.1.1.* got none"
    ):
        attach(Patcher(nn.Module()), fusion)
    narrow = model.get_submodule("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q")
    narrow.weight = nn.Parameter(torch.zeros(8, 8))
    with pytest.raises(ValueError, match=r"of width 16 at .* got width 8"):
        attach(Patcher(model), fusion)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "how many rows and columns"),
        ({"transformer_options": {"activations_shape": [1, 16, 5, 5]}}, "expected 5 x 5 tokens, got 12"),
        ({"transformer_options": {"activations_shape": [1, 16, 3, 4]}, "mask": torch.ones(12, 12)}, "another node"),
        (
            {"transformer_options": {"activations_shape": [1, 16, 3, 4]}, "context": torch.ones(1, 3, 16)},
            "another node",
        ),
    ],
)
def test_calls_that_a_block_cannot_answer(pack, keywords, message):
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=3)
    layer, block = next(iter(fusion.blocks.items()))
    patch = sys.modules["deltaconv_comfyui.nodes"].GridBlock(layer, block)
    with pytest.raises(ValueError, match=rf"^{layer}: .*{message}"):
        patch(torch.randn(1, 12, 16), **keywords)


def test_blocks_of_other_denoisers_are_refused(nodes, tmp_path):
    DeltaConvFusion.convert(tiny_pixart_transformer(), kernel_size=3).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"folder: expected blocks of a UNet2DConditionModel, got .* PixArtTransformer2DModel"
    ):
        nodes["DeltaConvLoadFusion"].load(str(tmp_path))
