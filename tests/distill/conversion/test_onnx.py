"""A converted UNet in onnxruntime."""

import onnxruntime
import torch
from deltaconv_distill import DeltaConvFusion
from tiny_pipelines import denoiser_inputs, tiny_sd_unet

import deltaconv_kernels as dk
from deltaconv_kernels.testing import relative_error


def test_a_converted_unet_in_onnxruntime():
    unet = tiny_sd_unet().requires_grad_(False)
    torch.manual_seed(1)
    DeltaConvFusion.convert(unet, kernel_size=3)
    inputs = denoiser_inputs(unet, 8, 8)
    expected = unet(**inputs, return_dict=False)[0]
    program = torch.export.export(unet, (), {**inputs, "return_dict": False})
    assert any("deltaconv" in str(node.target) for node in program.graph.nodes)
    program = program.run_decompositions(dk.decompositions())
    exported = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(exported.SerializeToString())
    feed = {node.name: inputs[node.name].numpy() for node in session.get_inputs()}
    assert relative_error(torch.from_numpy(session.run(None, feed)[0]), expected) <= 1e-5
