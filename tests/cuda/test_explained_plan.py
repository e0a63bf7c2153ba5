"""The CUDA launch plan as users read it, on any machine: Python and `deltaconv info --shape`."""

import pytest
import torch
from deltaconv_distill.cli.main import main
from host_build import device, plan_problem

from deltaconv_kernels.cuda_plan import GPUS, explain_block_plan, explain_cuda_plan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gpu", ["a100", "h200"])
def test_it_is_the_plan_that_the_kernels_run_by(host, gpu, dtype):
    problem = plan_problem((2, 33, 64, 96), (1, 3), 9, dtype)
    forward, backward = (plan(problem, device(gpu)) for plan in (host.forward_plan, host.backward_plan))
    expected = host.explain(forward) + host.explain(backward)
    assert explain_cuda_plan((2, 33, 64, 96), 9, (1, 3), dtype, gpu) == expected
    assert explain_cuda_plan((2, 33, 64, 96), 9, (1, 3), dtype, GPUS[gpu]) == expected


@pytest.mark.parametrize("gpu", ["a100", "h200"])
def test_of_a_whole_block(host, gpu):
    problem = plan_problem((2, 33, 64, 96), (1, 3), 9, torch.float16)
    expected = host.explain(host.block_plan(problem, 192, device(gpu)))
    assert explain_block_plan((2, 33, 64, 192), 9, (1, 3), torch.float16, gpu) == expected
    with pytest.raises(ValueError, match=r"shape: .* C a multiple of 32"):
        explain_block_plan((2, 33, 64, 200), 9)
    with pytest.raises(ValueError, match=r"dtype: expected one of torch\.float16, torch\.bfloat16"):
        explain_block_plan((2, 33, 64, 192), 9, dtype=torch.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 8, 8), 3), "shape: expected four"),
        (((2, 8, 8, 5), 3), "shape: .* C even"),
        (((2, 8, 8, 4), 4), "kernel_size: expected an odd number from 1 to 31, got 4"),
        (((2, 8, 8, 4), 3, (1, 9)), r"factors: .* got \[1, 9\]"),
        (((2, 8, 8, 4), 3, (1,), torch.float64), "dtype: expected one of .* got torch.float64"),
        (((2, 8, 8, 4), 3, (1,), torch.float32, "t4"), "gpu: expected one of .* got 't4'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        explain_cuda_plan(*arguments)


def test_the_command_prints_it(capsys):
    options = ["--shape", "2,64,64,320", "--kernel_size", "9", "--dtype", "bfloat16", "--gpu", "h200"]
    assert main(["info", *options]) == 0
    assert capsys.readouterr().out == explain_cuda_plan((2, 64, 64, 320), 9, (1, 2), torch.bfloat16, "h200")
    assert main(["info", *options, "--block"]) == 0
    assert capsys.readouterr().out == explain_block_plan((2, 64, 64, 320), 9)
    assert main(["info", "--shape", "2,64,x"]) == 2
    assert "expected numbers separated by commas, got '2,64,x'" in capsys.readouterr().err
