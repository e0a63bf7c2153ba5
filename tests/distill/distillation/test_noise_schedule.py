"""The noise of training is that of the pipeline's scheduler, or refused; min-SNR weights in closed form."""

import diffusers
import pytest
import torch
from deltaconv_distill.distillation import DenoisingTask
from deltaconv_distill.distillation.noise_schedule import training_schedule
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from tiny_pipelines import tiny_sd, tiny_sdxl

WITH_BETAS = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "PNDMScheduler", "TCDScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
WITHOUT_BETAS = (
    "EDMDPMSolverMultistepScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler", "ScoreSdeVeScheduler",
)  # fmt: skip


@pytest.mark.parametrize("name", WITH_BETAS)
@pytest.mark.parametrize("made", ["in code", "from another's config", "from a file"])
def test_the_noise_is_the_pipelines_own(name, made, tmp_path):
    kind = getattr(diffusers, name)
    scheduler = kind()
    if made == "from another's config":
        scheduler = kind.from_config(DDIMScheduler(beta_start=0.002, beta_schedule="scaled_linear").config)
    elif made == "from a file":
        scheduler.save_pretrained(tmp_path)
        scheduler = kind.from_pretrained(tmp_path)
    torch.testing.assert_close(training_schedule(scheduler).alphas_cumprod, scheduler.alphas_cumprod)


@pytest.mark.parametrize("name", WITHOUT_BETAS)
def test_another_family_is_refused_by_name(name):
    pipe = tiny_sdxl()
    pipe.scheduler = getattr(diffusers, name)()
    with pytest.raises(ValueError, match=rf"pipe.scheduler: expected a scheduler with betas .*; got {name}"):
        DenoisingTask(pipe)


def test_flow_matching_in_a_scheduler_with_betas_is_refused():
    scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="got DPMSolverMultistepScheduler with use_flow_sigmas"):
        training_schedule(scheduler)


def test_alphas_that_do_not_follow_from_the_config_are_refused():
    scheduler = DDIMScheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    with pytest.raises(ValueError, match="the alphas of this DDIMScheduler are not those of its configured betas"):
        training_schedule(scheduler)


def test_a_prediction_type_that_is_given_replaces_the_configured_one():
    assert training_schedule(DDPMScheduler(prediction_type="sample"), "epsilon").config.prediction_type == "epsilon"
    with pytest.raises(ValueError, match=r"expected a prediction_type in .*, got 'sample'"):
        training_schedule(DDPMScheduler(prediction_type="sample"))


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_in_closed_form_up_to_zero_snr(scheduler, prediction):
    pipe, gamma = tiny_sd(), 5.0
    pipe.scheduler = scheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True, prediction_type=prediction)
    timesteps = torch.tensor([0, 10, 500, 998, 999])
    alphas = training_schedule(pipe.scheduler).alphas_cumprod.double()[timesteps]
    snr = alphas / (1 - alphas)
    assert snr[-1] == 0
    capped = snr.clamp(max=gamma)
    expected = torch.where(snr > 0, capped / snr, 1.0) if prediction == "epsilon" else capped / (snr + 1)
    weights = DenoisingTask(pipe).snr_weights(timesteps, gamma)
    torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-6)
