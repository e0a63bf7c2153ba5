"""The times of flow matching: densities against their formulas, shifts against diffusers' schedulers."""

from __future__ import annotations

import math

import pytest
import torch
from deltaconv_distill.distillation import DenoisingTask, DistillConfig
from deltaconv_distill.distillation.data.batches import Draws
from deltaconv_distill.distillation.flow_matching import FlowTimes, TimeDensity, TimeShift, configured_shift
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from tiny_flow_pipelines import flux, stable_diffusion_3

DRAWS = 4000


def logit_normal(t: float, mean: float, std: float) -> float:
    """Its distribution function."""
    return 0.5 * (1 + math.erf((math.log(t / (1 - t)) - mean) / (std * 2**0.5)))


def mode(t: float, scale: float) -> float:
    """Its distribution function: 1 - the u at which f_mode, which falls, is t, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        u = (low + high) / 2
        above = 1 - u - scale * (math.cos(math.pi * u / 2) ** 2 - 1 + u) > t
        low, high = (u, high) if above else (low, u)
    return 1 - low


@pytest.mark.parametrize(
    ("density", "distribution"),
    [
        (TimeDensity(), lambda t: logit_normal(t, 0, 1)),
        (TimeDensity("logit_normal", -0.5, 0.7), lambda t: logit_normal(t, -0.5, 0.7)),
        (TimeDensity("mode"), lambda t: mode(t, 1.29)),
        (TimeDensity("mode", mode_scale=-0.8), lambda t: mode(t, -0.8)),
        (TimeDensity("none"), lambda t: t),
    ],
    ids=["logit-normal", "logit-normal-low", "mode", "mode-ends", "uniform"],
)
def test_densities_follow_their_formulas(density, distribution):
    """Kolmogorov-Smirnov: the largest distance between the two distribution functions, at a level of 0.001."""
    generator = torch.Generator().manual_seed(0)
    times = torch.stack([density.draw(generator) for _ in range(DRAWS)]).sort().values.tolist()
    distance = max(abs(distribution(t) - (i + 0.5) / DRAWS) for i, t in enumerate(times))
    assert distance < 1.95 / DRAWS**0.5


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_a_constant_shift_is_the_schedulers(kind):
    scheduler, plain = kind(shift=3.0), kind(shift=1.0)
    shift = configured_shift(scheduler)
    assert shift == TimeShift(3.0)
    torch.testing.assert_close(shift(plain.sigmas[:1000], 64), scheduler.sigmas[:1000])


def test_the_shift_of_another_sampler_of_flow_matching():
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0)
    assert configured_shift(scheduler) == TimeShift(2.0)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [256, 1024, 4096, 9000])
def test_a_shift_by_size_is_the_pipelines(kind, tokens):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    options = {"base_shift": 0.6, "max_shift": 1.2, "base_image_seq_len": 256, "max_image_seq_len": 4096}
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind, **options)
    times = torch.linspace(0.01, 1, 50)
    mu = calculate_shift(tokens, 256, 4096, 0.6, 1.2)
    torch.testing.assert_close(configured_shift(scheduler)(times, tokens), scheduler.time_shift(mu, 1.0, times))


def test_timesteps_are_drawn_shifted_by_the_size_of_the_latents():
    shift = TimeShift(None, (4, 16), (0.0, math.log(4)))
    times = FlowTimes(1000, 2, TimeDensity("none"), shift)
    draws = Draws(0, 1000, flow_times=times)
    small, large = (draws.at(3, (4, side, side))[2] for side in (4, 8))
    assert (small.dtype, small.shape) == (torch.float32, ())
    u = FlowTimes(1000, 2, TimeDensity("none"), TimeShift())
    unshifted = Draws(0, 1000, flow_times=u).at(3, (4, 8, 8))[2] / 1000
    torch.testing.assert_close(large, 1000 * 4 * unshifted / (1 + 3 * unshifted))
    same = Draws(0, 1000, flow_times=u).at(3, (4, 4, 4))[2]
    torch.testing.assert_close(small, same)  # of four tokens: no shift


def test_a_task_takes_shift_and_tokens_from_its_pipeline():
    pipe = flux()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert DenoisingTask(pipe).flow_times == FlowTimes(1000, 2, TimeDensity(), TimeShift(None))
    sd3 = stable_diffusion_3()
    sd3.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert DenoisingTask(sd3).flow_times == FlowTimes(1000, 2, TimeDensity(), TimeShift(3.0))
    config = DistillConfig(weighting_scheme="mode", mode_scale=0.5, timestep_shift=2.0)
    expected = FlowTimes(1000, 2, TimeDensity("mode", mode_scale=0.5), TimeShift(2.0))
    assert DenoisingTask.configured(sd3, config).flow_times == expected


def test_a_scheduler_of_another_family_is_refused_by_name():
    pipe = flux()
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match=r"pipe.scheduler: expected one of flow matching .*; got DDIMScheduler"):
        DenoisingTask(pipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting_scheme": "uniform"}, "weighting_scheme: expected one of"),
        ({"logit_std": 0.0}, "logit_std: expected a positive number or None, got 0.0"),
        ({"timestep_shift": -1.0}, "timestep_shift: expected a positive number or None, got -1.0"),
        ({"mode_scale": 1.0}, "mode_scale: expected None unless weighting_scheme is 'mode', got 1.0"),
        ({"weighting_scheme": "mode", "mode_scale": 2.0}, r"mode_scale: expected a number in \[-1, 1.752\], got 2.0"),
        (
            {"weighting_scheme": "mode", "logit_mean": 1.0},
            "logit_mean: expected None unless weighting_scheme is 'logit",
        ),
        ({"weighting_scheme": "none", "logit_std": 1.0}, "logit_std: expected None unless weighting_scheme is 'logit"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**settings)
