"""SD3 and FLUX.1 in the trainer: asked as their pipelines ask them, and every loss reaches every block parameter."""

from __future__ import annotations

import pytest
import torch
from deltaconv_distill.distillation import Batch, DenoisingTask, PipelineEncoder
from deltaconv_distill.distillation.denoiser_calls import of_flux
from deltaconv_distill.distillation.training.layer_local import attention_calls, local_loss
from distilling import make_distiller
from tiny_flow_pipelines import flux, stable_diffusion_3
from tiny_pipelines import tiny_sd

MAKE = {"sd3": stable_diffusion_3, "flux": flux}


@pytest.fixture(params=MAKE)
def make(request):
    return MAKE[request.param]


def test_the_denoiser_is_asked_as_the_pipeline_asks_it(make):
    """The pipeline's first step, at t = 1, where the noisy latents are the noise; not square, so that places count."""
    pipe = make()
    task, encoder = DenoisingTask(pipe, guidance_scale=2.5 if make is flux else None), PipelineEncoder(pipe)
    seen = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    latents = noise
    if make is flux:  # as FluxPipeline packs them
        latents = noise.view(2, 4, 4, 2, 6, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 24, 16)
    scale = 2.5 if make is flux else 1.0  # embedded, or none
    options = {"height": 16, "width": 24, "num_inference_steps": 1, "guidance_scale": scale, "output_type": "latent"}
    pipe(["sun", "cup"], latents=latents, **options)
    batch = Batch(torch.zeros_like(noise), noise, torch.full((2,), 1000.0), encoder.conditioning(["sun", "cup"]))
    with torch.no_grad():
        task.predict(batch)
    (_, theirs), (args, ours) = seen
    ours = {"hidden_states": args[0], **ours}
    theirs = {name: value for name, value in theirs.items() if value is not None}
    assert ours.keys() >= theirs.keys() - {"joint_attention_kwargs"}
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, theirs[name], msg=lambda text, name=name: f"{name}: {text}")


def test_tokens_are_unpacked_as_they_were_packed():
    latents = torch.randn(2, 4, 6, 10)
    given = {"encoder_hidden_states": torch.zeros(2, 3, 8), "pooled_projections": torch.zeros(2, 8)}
    echo = lambda tokens, **_: (tokens,)  # noqa: E731
    assert torch.equal(of_flux(echo, latents, torch.zeros(2), given, None), latents)


def test_the_velocity_in_closed_form(make):
    distiller = make_distiller(make())
    task, batch = distiller.task, distiller.stream.batch(0)
    seen = []
    task.noising.add_noise, add = lambda *given: seen.append(add(*given)) or seen[-1], task.noising.add_noise
    with torch.no_grad():
        terms, prediction = distiller.losses(batch), task.predict(batch)
    time = (batch.timesteps / 1000)[:, None, None, None]
    torch.testing.assert_close(seen[0], batch.latents + time * (batch.noise - batch.latents))
    torch.testing.assert_close(task.target(batch), batch.noise - batch.latents)
    # from any time, a step along the velocity to t = 0 gives the latents
    torch.testing.assert_close(seen[0] - time * task.target(batch), batch.latents, rtol=1e-4, atol=1e-5)
    expected = (prediction - (batch.noise - batch.latents)).square().mean()
    torch.testing.assert_close(terms.noise, expected)
    assert task.prediction_type == "velocity"


@pytest.mark.parametrize("term", ["noise", "kd", "feat", "stage 1"])
def test_each_loss_alone_reaches_every_parameter_of_the_blocks(make, term):
    distiller = make_distiller(make())
    batch = distiller.stream.batch(0)
    if term == "stage 1":
        local_loss(distiller.fusion, attention_calls(distiller.fusion, distiller.task, batch)).backward()
    else:
        getattr(distiller.losses(batch), term).backward()
    names = [name for name, _ in distiller.fusion.named_parameters()]
    assert any(name.endswith("text_share.weight") for name in names)
    for name, parameter in distiller.fusion.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient from {term}"
        assert parameter.grad.abs().sum() > 0, f"{name} has a zero gradient from {term}"
    blocks = {id(parameter) for parameter in distiller.fusion.parameters()}
    assert all(p.grad is None for p in distiller.task.denoiser.parameters() if id(p) not in blocks)


@torch.no_grad()
def test_stage_1_knows_what_another_share_of_the_text_would_change(make):
    """Its loss is that of recording again with the new shares, relative to the same target."""
    distiller = make_distiller(make())
    fusion, task, batch = distiller.fusion, distiller.task, distiller.stream.batch(0)
    calls = attention_calls(fusion, task, batch)
    before = local_loss(fusion, calls)
    for name, parameter in fusion.named_parameters():
        if name.endswith("text_share.weight"):
            parameter.copy_(torch.tensor([0.3, 0.6]))
    errors = []
    for name, call in attention_calls(fusion, task, batch).items():
        error = (fusion.blocks[name](call.input) - call.output).square().mean()
        errors.append(error / calls[name].output.square().mean())
    after = local_loss(fusion, calls)
    torch.testing.assert_close(after, torch.stack(errors).mean())
    assert abs(after - before) > 1e-4 * before


def test_both_stages_learn(make):
    """From shares of the text that are far off; the start is close to these teachers, who attend to all alike."""
    settings = {"lr_scheduler": "constant", "w_noise": 0, "w_feat": 1.0, "learning_rate": 5e-3, "max_train_steps": 15}
    for stage, options in (("local", {"stage1_steps": 15, "stage1_repeats": 15}), ("feat", {})):
        distiller = make_distiller(make(), **settings, **options)
        shares = [p for name, p in distiller.fusion.named_parameters() if name.endswith("text_share.weight")]
        for share in shares:
            torch.nn.init.constant_(share, 0.9)
        records = distiller.train()
        first, last = (sum(record.terms[stage] for record in part) for part in (records[:3], records[-3:]))
        assert last < 0.7 * first, stage
        assert all((share - 0.9).abs().max() > 1e-3 for share in shares), stage


def test_gradient_checkpointing_gives_the_same_losses(make):
    plain, again = (make_distiller(make(), gradient_checkpointing=on).train_step() for on in (False, True))
    assert again.terms == pytest.approx(plain.terms, rel=1e-5)
    assert again.grad_norm == pytest.approx(plain.grad_norm, rel=1e-4)


def test_a_resumed_run_has_the_same_bits_as_an_uninterrupted_one(make, tmp_path):
    settings = {"max_train_steps": 4, "stage1_steps": 1, "learning_rate": 1e-2, "weighting_scheme": "mode"}
    whole = make_distiller(make(), output_dir=str(tmp_path / "whole"), **settings)
    expected = whole.train()
    cut = make_distiller(make(), output_dir=str(tmp_path / "cut"), **settings)
    for _ in range(2):
        cut.train_step()
    cut.save_checkpoint()
    cut.train_step()  # lost with the interruption
    torch.manual_seed(99)
    resumed = make_distiller(make(), output_dir=str(tmp_path / "cut"), resume_from_checkpoint="latest", **settings)
    assert [record.terms for record in resumed.train()] == [record.terms for record in expected]
    for name, value in whole.fusion.state_dict().items():
        assert torch.equal(value, resumed.fusion.state_dict()[name]), name


def test_another_density_on_resume_is_an_error(tmp_path):
    from deltaconv_distill.distillation import CheckpointError

    make_distiller(flux(), output_dir=str(tmp_path), max_train_steps=1).train()
    with pytest.raises(CheckpointError, match=r"other settings: timestep_shift None -> 3\.0"):
        make_distiller(flux(), output_dir=str(tmp_path), resume_from_checkpoint="latest", timestep_shift=3.0)


def test_guidance_is_told_where_it_is_an_input():
    seen = {}
    for given, told in ((None, 3.5), (1.5, 1.5)):
        distiller = make_distiller(flux(), guidance_scale=given)
        hook = lambda module, args, kwargs: seen.update(kwargs)  # noqa: E731
        distiller.task.denoiser.register_forward_pre_hook(hook, with_kwargs=True)
        distiller.train_step()
        assert seen["guidance"].tolist() == [told] * 2


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        (stable_diffusion_3, {"guidance_scale": 2.0}, "guidance_scale: expected None, because a SD3.* is not told any"),
        (stable_diffusion_3, {"snr_gamma": 5.0}, "snr_gamma: expected None, because a SD3.* weighs its times by"),
        (flux, {"prediction_type": "epsilon"}, "prediction_type: expected None, because a Flux.* by flow matching"),
        (tiny_sd, {"weighting_scheme": "mode"}, "weighting_scheme: expected None, because a UNet.* no flow matching"),
        (tiny_sd, {"logit_mean": 1.0}, "weighting_scheme: expected None, because a UNet.* has no flow matching"),
        (tiny_sd, {"timestep_shift": 3.0}, "timestep_shift: expected None, because a UNet.* has no flow matching"),
        (tiny_sd, {"guidance_scale": 3.0}, "guidance_scale: expected None, because a UNet.* is not told any"),
    ],
)
def test_settings_of_another_kind_of_teacher_are_refused_by_name(kind, setting, message):
    with pytest.raises(ValueError, match=message):
        make_distiller(kind(), **setting)


def test_latents_that_tokens_do_not_cover_are_refused(make):
    pipe = make()
    task, given = DenoisingTask(pipe), PipelineEncoder(pipe).conditioning(["sun"])
    latents = torch.zeros(1, 4, 7, 8)
    with pytest.raises(
        ValueError, match=r"batch.latents: expected .* multiples of the 2 latent pixels of a token, got 7"
    ):
        task.predict(Batch(latents, latents, torch.zeros(1), given))


def test_latents_are_shifted_and_scaled_as_the_pipeline_has_them(make):
    pipe = make()
    pipe.vae.register_to_config(shift_factor=0.25, scaling_factor=1.5)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(image).latent_dist.mean
    torch.testing.assert_close(PipelineEncoder(pipe).moments(image).mean, (mean - 0.25) * 1.5)
