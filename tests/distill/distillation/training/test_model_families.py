"""SD1.5, SDXL and PixArt-Σ: every loss reaches the student, and the denoiser is asked as the pipeline asks it."""

import pytest
import torch
from deltaconv_distill.distillation import CachedExamples, DistillConfig, PipelineEncoder
from deltaconv_distill.distillation.data.batches import Draws, draw_batch
from distilling import RandomImages, make_distiller
from tiny_pipelines import denoiser_inputs, tiny_pixart, tiny_sd, tiny_sdxl
from training_cost import step_flops

PIPELINES = {"sd": tiny_sd, "sdxl": tiny_sdxl, "pixart": tiny_pixart}


@pytest.fixture(params=PIPELINES)
def pipe(request):
    return PIPELINES[request.param]()


@pytest.mark.parametrize("term", ["noise", "kd", "feat"])
def test_each_term_alone_reaches_every_parameter_of_the_student(pipe, term):
    distiller = make_distiller(pipe)
    getattr(distiller.losses(distiller.stream.batch(0)), term).backward()
    for name, parameter in distiller.fusion.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient from {term}"
        assert parameter.grad.abs().sum() > 0, f"{name} has a zero gradient from {term}"


def test_each_kind_of_model_learns(pipe):
    settings = {"learning_rate": 5e-3, "lr_scheduler": "constant", "w_noise": 0, "w_feat": 1.0}
    records = make_distiller(pipe, max_train_steps=30, train_batch_size=4, **settings).train()
    first, last = (sum(record.terms["feat"] for record in part) for part in (records[:5], records[-5:]))
    assert last < 0.7 * first


def test_gradient_checkpointing_gives_the_same_losses(pipe):
    plain = make_distiller(pipe).train_step()
    again = make_distiller(pipe_like(pipe), gradient_checkpointing=True).train_step()
    assert again.terms == pytest.approx(plain.terms, rel=1e-5)
    assert again.grad_norm == pytest.approx(plain.grad_norm, rel=1e-4)


def test_sdxl_is_told_the_sizes_and_the_pooled_text():
    pipe = tiny_sdxl()
    examples = CachedExamples(RandomImages(), PipelineEncoder(pipe))
    distiller = make_distiller(pipe)
    batch = distiller.stream.batch(0)
    assert batch.conditioning["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2
    assert batch.conditioning["text_embeds"].shape == (2, 32)
    seen = {}
    pipe.unet.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    distiller.task.predict(batch)
    assert seen["added_cond_kwargs"]["time_ids"] is batch.conditioning["time_ids"]
    assert seen["added_cond_kwargs"]["text_embeds"] is batch.conditioning["text_embeds"]
    texts = pipe.encode_prompt("sun", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    torch.testing.assert_close(examples.conditioning(["sun"])["encoder_hidden_states"], texts[0])
    torch.testing.assert_close(examples.conditioning(["sun"])["text_embeds"], texts[2])


def test_pixart_predicts_noise_and_variance_and_the_noise_counts():
    distiller = make_distiller(tiny_pixart())
    batch = distiller.stream.batch(0)
    assert batch.conditioning["encoder_attention_mask"].sum() < batch.conditioning["encoder_attention_mask"].numel()
    noisy = distiller.task.noising.schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
    with torch.no_grad():
        whole = distiller.task.denoiser(
            noisy,
            timestep=batch.timesteps,
            **batch.conditioning,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        prediction = distiller.task.predict(batch)
    assert whole.shape[1] == 8
    assert torch.equal(prediction, whole[:, :4])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_snr_weights(prediction_type):
    distiller = make_distiller(snr_gamma=5.0, prediction_type=prediction_type)
    task, batch = distiller.task, distiller.stream.batch(0)
    assert task.prediction_type == prediction_type
    alpha = task.noising.schedule.alphas_cumprod[batch.timesteps]
    snr = alpha / (1 - alpha)
    expected = snr.clamp(max=5) / (snr if prediction_type == "epsilon" else snr + 1)
    torch.testing.assert_close(task.snr_weights(batch.timesteps, 5.0), expected)
    with torch.no_grad():
        terms = distiller.losses(batch)
        errors = (task.predict(batch) - task.target(batch)).square().mean((1, 2, 3))
    torch.testing.assert_close(terms.noise, (errors * expected).mean())


def test_weights_follow_their_schedules():
    schedule = DistillConfig(w_noise_schedule="0:0,10:1", w_kd=2.0, w_feat_schedule="5:1,6:0.5").weight_schedule
    assert [schedule.at(step).noise for step in (0, 5, 10, 99)] == [0, 0.5, 1, 1]
    assert [schedule.at(step).feat for step in (0, 5, 6, 99)] == [1, 1, 0.5, 0.5]
    assert schedule.at(7).kd == 2.0
    distiller = make_distiller(w_noise_schedule="0:0,1:1", w_kd=0, w_feat=0, max_train_steps=2)
    first, second = distiller.train()
    assert (first.total, first.grad_norm) == (0, 0)
    assert second.total == pytest.approx(second.terms["noise"])


@pytest.mark.parametrize("text", ["1", "0:1,0:2", "5:1,2:1", "0:-1", "a:b"])
def test_a_bad_schedule_is_named(text):
    with pytest.raises(ValueError, match="w_kd_schedule: expected"):
        DistillConfig(w_kd_schedule=text)


def test_noise_does_not_depend_on_the_kind_of_model():
    examples = [CachedExamples(RandomImages(), PipelineEncoder(make())) for make in (tiny_sd, tiny_sdxl)]
    batches = [draw_batch(Draws(0, 1000, 0.0), 7, kind.moments([0, 1]), ["a", "b"])[0] for kind in examples]
    assert torch.equal(batches[0].noise, batches[1].noise)
    assert torch.equal(batches[0].timesteps, batches[1].timesteps)


def pipe_like(pipe):
    return next(make() for make in PIPELINES.values() if type(make()) is type(pipe))


def test_a_training_step_costs_less_than_two_passes_backward(pipe):
    distiller = make_distiller(pipe)
    denoiser = distiller.task.denoiser
    teacher, student, backward = step_flops(denoiser, distiller.fusion, denoiser_inputs(denoiser, 8, 8, batch=1))
    assert min(teacher, student) > 0
    # gradients of activations everywhere, of weights in the blocks alone
    assert 0.7 * student < backward < 1.7 * student
