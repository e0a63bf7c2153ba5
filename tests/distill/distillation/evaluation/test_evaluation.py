"""What `evaluate` measures: agreement on noise held out of training, distances of images, scores of local networks."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from deltaconv_distill.demo.evaluate import prediction_errors
from deltaconv_distill.demo.settings import DemoSettings
from deltaconv_distill.distillation import CachedExamples, DenoisingTask, PipelineEncoder
from deltaconv_distill.distillation.evaluation.evaluate import EvaluationSettings, agreement_by_timestep, compare_images
from deltaconv_distill.distillation.evaluation.external_metrics import clip_score, dino_distance, inception_distance
from deltaconv_distill.distillation.evaluation.generated_images import generate_images, pixel_difference
from deltaconv_distill.distillation.evaluation.held_out_noise import held_out_batches
from distilling import RandomImages, make_distiller
from tiny_pipelines import tiny_pixart, tiny_sd
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
)


def test_held_out_noise_is_none_that_training_draws():
    distiller = make_distiller()
    held = next(held_out_batches(distiller.task, distiller.stream.examples, distiller.config.seed, 2, 1))
    drawn = [noise for position in range(0, 200, 2) for noise in distiller.stream.batch(position).noise]
    assert not any(torch.equal(noise, trained) for noise in held.noise for trained in drawn)
    assert not torch.equal(held.noise[0], held.noise[1])


def test_held_out_batches_follow_one_another_and_their_seed():
    pipe = tiny_sd()
    task, examples = DenoisingTask(pipe), CachedExamples(RandomImages(), PipelineEncoder(pipe))
    once, twice, other = (list(held_out_batches(task, examples, seed, 2, 3)) for seed in (0, 0, 1))
    assert len(once) == 3
    assert all(torch.equal(left.noise, right.noise) for left, right in zip(once, twice, strict=True))
    assert not any(torch.equal(left.noise, right.noise) for left, right in zip(once, other, strict=True))
    assert not torch.equal(once[0].noise, once[1].noise)


def test_the_demo_measures_on_the_same_noise():
    distiller = make_distiller()
    pipe, task, examples = distiller.pipe, distiller.task, distiller.stream.examples
    errors = prediction_errors(pipe, distiller.fusion, examples, DemoSettings(held_batches=1))
    batch = next(held_out_batches(task, examples, 0, 64, 1))
    with torch.no_grad(), distiller.fusion.teacher():
        expected = (task.predict(batch) - task.target(batch)).square().mean()
    assert errors["teacher"].noise_mse == pytest.approx(expected.item(), rel=1e-5)
    assert errors["teacher"].teacher_mse == 0 < errors["student"].teacher_mse


def test_the_difference_of_pixels_in_closed_form():
    black, white = np.zeros((2, 3, 4, 3), np.uint8), np.full((2, 3, 4, 3), 255, np.uint8)
    half = black.copy()
    half[0] = 255
    assert pixel_difference(white, black) == pixel_difference(black, white) == 1
    assert pixel_difference(half, black) == 0.5
    assert pixel_difference(half, half) == 0


@pytest.mark.parametrize("make", [tiny_sd, tiny_pixart], ids=["sd", "pixart"])
def test_an_image_depends_on_its_prompt_and_seed_not_on_its_batch(make):
    pipe, counts = make(), []
    pipe.set_progress_bar_config(desc="kept")
    options = {"num_inference_steps": 2, "height": 16, "width": 16}
    together = generate_images(pipe, ["sun", "cup", "tree"], 5, 2, counts.append, **options)
    assert together.shape == (3, 16, 16, 3)
    assert counts == [2, 1]
    assert pipe._progress_bar_config == {"desc": "kept"}
    alone = generate_images(pipe, ["tree"], 7, 1, **options)
    assert np.abs(alone.astype(int) - together[2:]).max() <= 1  # rounding of another batch size


def test_agreement_is_perfect_for_the_teacher_and_known_for_zeros():
    distiller = make_distiller()
    pipe, fusion = distiller.pipe, distiller.fusion
    examples = CachedExamples(RandomImages(), PipelineEncoder(pipe))
    settings = EvaluationSettings(examples=4, timesteps=3, batch_size=2)
    rows = agreement_by_timestep(pipe, fusion, examples, settings)
    assert [row.timestep for row in rows] == [166, 500, 833]
    assert all(row.teacher_mse > 0 for row in rows)
    assert all(row.cosine < 1 for row in rows)
    with fusion.teacher():
        for row in agreement_by_timestep(pipe, fusion, examples, settings):
            assert row.teacher_mse == row.relative_mse == 0
            assert row.cosine == pytest.approx(1)
            assert row.student_noise_mse == row.teacher_noise_mse


@pytest.mark.parametrize("examples", [1, 3, 5])
def test_exactly_as_many_examples_as_asked_for_are_measured(examples):
    distiller = make_distiller()
    pipe, fusion, data = distiller.pipe, distiller.fusion, distiller.stream.examples
    rows = agreement_by_timestep(pipe, fusion, data, EvaluationSettings(examples=examples, timesteps=2, batch_size=2))
    one_by_one = agreement_by_timestep(
        pipe, fusion, data, EvaluationSettings(examples=examples, timesteps=2, batch_size=1)
    )
    for batched, single in zip(rows, one_by_one, strict=True):
        assert asdict(batched) == pytest.approx(asdict(single), rel=1e-4)
    if examples > 1:
        fewer = agreement_by_timestep(pipe, fusion, data, EvaluationSettings(examples=1, timesteps=2, batch_size=2))
        assert fewer[0].teacher_mse != pytest.approx(rows[0].teacher_mse, rel=1e-4)


def test_distances_with_local_weights(tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    size = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 28}, crop_size=size).save_pretrained(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16, 3), np.uint8)
    assert dino_distance(images[0], images[0], str(tmp_path)) == pytest.approx(0, abs=1e-4)
    settings = EvaluationSettings(dino_model=str(tmp_path))
    figures = compare_images(images[0], images[1], images[1], list("abcdefgh"), settings)
    assert figures["fdd_student_real"] == pytest.approx(0, abs=1e-4)
    assert figures["fdd_teacher_real"] > 0.01
    assert figures["fd_effnet_student_teacher"] > 0


def test_clip_score_with_local_weights(tmp_path):
    pipe = tiny_sd()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    text = pipe.text_encoder.config.to_dict()
    config = CLIPConfig(text_config=text, vision_config={**vision, "image_size": 8, "patch_size": 4}, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path)
    processor = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    CLIPProcessor(processor, pipe.tokenizer).save_pretrained(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    score = clip_score(images, ["sun", "cup"], str(tmp_path))
    assert -100 <= score <= 100
    assert score != clip_score(images, ["red cat", "tree"], str(tmp_path))


def test_fid_without_torch_fidelity_says_what_to_install(tmp_path, monkeypatch):
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")
    monkeypatch.setattr(fid, "_TORCH_FIDELITY_AVAILABLE", False)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"")
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="inception_weights: FID needs pip install torchmetrics torch-fidelity"):
        inception_distance(images, images, str(weights))


@pytest.mark.parametrize(
    ("measure", "name"),
    [(inception_distance, "inception_weights"), (clip_score, "clip_model"), (dino_distance, "dino_model")],
)
def test_weights_that_are_missing_are_named(measure, name):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=rf"{name}: expected a path of weights on this machine, got '/nowhere'"):
        measure(images, images, "/nowhere")
