"""Looking at denoisers while they run: right numbers, nothing changed, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import Generation, Sampling, ablate_windows, analyze, attention, profile_of, record
from deltaconv_distill.analysis.windows import WINDOW_ONLY
from deltaconv_distill.conversion.sites import denoiser_of, find_sites
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from tiny_pipelines import denoiser_inputs, predict, tiny_pixart, tiny_sd, tiny_sd_unet, tiny_sdxl
from torch import Tensor, nn

ALL = Sampling(max_queries=None, window_queries=1024, field_queries=2, field_directions=2)
TWO_STEPS = Generation(["red cat"], timesteps=(900, 100), num_inference_steps=2, options={"height": 16, "width": 24})


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@contextmanager
def inputs_of_attentions(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """An independent look: what each self-attention gets."""
    inputs: dict[str, Tensor] = {}
    handles = [
        site.attention.register_forward_pre_hook(lambda _, args, name=name: inputs.__setitem__(name, args[0]))
        for name, site in find_sites(model).found.items()
    ]
    yield inputs
    for handle in handles:
        handle.remove()


def dense_attention(layer: Attention, hidden_states: Tensor) -> Tensor:
    """[B, heads, N, N], by diffusers' own arithmetic."""
    query, key = (layer.head_to_batch_dim(project(hidden_states)) for project in (layer.to_q, layer.to_k))
    return layer.get_attention_scores(query, key).unflatten(0, (len(hidden_states), layer.heads))


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (6, 10)], ids=["square", "6x10"])
def test_statistics_are_those_of_the_dense_attention(
    denoiser: nn.Module, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks, for every kind of denoiser; relative maps, window shares and entropies from all of N x N."""
    with inputs_of_attentions(denoiser) as inputs:
        expected = predict(denoiser, *size)
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", 200)
    with record(denoiser, ALL) as recording:
        assert predict(denoiser, *size).equal(expected)
    profile = profile_of(recording)
    assert list(profile.layers) == list(find_sites(denoiser).found)
    for name, layer in profile.layers.items():
        weights = dense_attention(find_sites(denoiser).found[name].attention, inputs[name])
        height, width = layer.grid
        assert weights.shape[-1] == height * width == layer.queries
        stride = find_sites(denoiser).found[name].stride
        assert layer.grid == (-(-size[0] // stride), -(-size[1] // stride))
        maps = weights.mean(0).unflatten(-1, layer.grid).unflatten(-3, layer.grid)  # [heads, H, W, H, W]
        reach = layer.relative_map.shape[-1] // 2
        for dy, dx in ((0, 0), (1, -1), (-2, 1)):
            pairs = [
                maps[:, y, x, y + dy, x + dx]
                for y in range(height)
                for x in range(width)
                if 0 <= y + dy < height and 0 <= x + dx < width
            ]
            ours = layer.relative_map[:, reach + dy, reach + dx]
            torch.testing.assert_close(ours, torch.stack(pairs).mean(0) if pairs else torch.zeros_like(ours))
        for timestep in layer.timesteps[:1]:
            if len(layer.timesteps) == 1:
                entropy = torch.special.entr(weights).sum(-1).mean((0, 2)) / np.log(height * width)
                torch.testing.assert_close(timestep.entropy, entropy)
            torch.testing.assert_close(timestep.window_share[:, -1], torch.ones(layer.heads))


@torch.no_grad()
def test_no_map_of_all_queries_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    softmax = Tensor.softmax
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", 5000)
    monkeypatch.setattr(Tensor, "softmax", lambda self, dim: largest.append(self.numel()) or softmax(self, dim))
    denoiser = tiny_sd_unet()
    with record(denoiser, Sampling(max_queries=None, field_queries=1)):
        predict(denoiser, 16, 24)
    assert 4000 < max(largest) <= 5000


@torch.no_grad()
def test_sampled_queries_estimate_the_whole() -> None:
    denoiser = tiny_sd_unet()
    maps = []
    for count in (None, 100):
        with record(denoiser, Sampling(max_queries=count, field_queries=1)) as recording:
            predict(denoiser, 16, 16)
        layer = next(iter(profile_of(recording).layers.values()))
        assert layer.queries == (count or 256)
        maps.append(layer.timesteps[0].window_share)
    torch.testing.assert_close(*maps, rtol=0.05, atol=1e-3)
    assert not maps[0].equal(maps[1])


@torch.no_grad()
def test_hooks_are_gone_also_after_an_exception(denoiser: nn.Module) -> None:
    before, expected = hooks_of(denoiser), predict(denoiser)
    with record(denoiser, Sampling(field_queries=1)):
        predict(denoiser)
        assert hooks_of(denoiser) > before
    assert hooks_of(denoiser) == before
    with record(denoiser):
        predict(denoiser, 8, 8)
        with pytest.raises(ValueError, match="one recording is of one size, got"):
            predict(denoiser, 6, 8)
    with pytest.raises(KeyError), record(denoiser):
        raise KeyError
    assert hooks_of(denoiser) == before
    assert predict(denoiser).equal(expected)


def test_random_numbers_and_gradients_are_left_alone() -> None:
    denoiser = tiny_sd_unet()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with record(denoiser, Sampling(field_queries=1)):
        predict(denoiser).sum().backward()
    gradient = next(denoiser.parameters()).grad.clone()
    assert torch.get_rng_state().equal(state)
    denoiser.zero_grad()
    predict(denoiser).sum().backward()
    assert next(denoiser.parameters()).grad.equal(gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_inference_mode_and_half_precision(dtype: torch.dtype) -> None:
    denoiser = tiny_sd_unet().to(dtype)
    with torch.inference_mode():
        expected = predict(denoiser)
    with record(denoiser) as recording:
        with torch.inference_mode():
            assert predict(denoiser).equal(expected)
        predict(denoiser)
    layer = next(iter(profile_of(recording).layers.values()))
    assert layer.relative_map.dtype == torch.float32
    assert layer.timesteps[0].field_radial[0] > 0


@torch.no_grad()
def test_a_compiled_denoiser_is_looked_at_uncompiled() -> None:
    pipe = tiny_sd()
    plain = pipe.unet
    pipe.unet = torch.compile(plain, backend="eager")
    expected = predict(plain)
    torch.testing.assert_close(pipe.unet(**denoiser_inputs(plain, 8, 8)).sample, expected)
    with record(pipe, Sampling(field_queries=1)) as recording:
        pipe.unet(**denoiser_inputs(plain, 8, 8))
    assert len(profile_of(recording).layers) == len(find_sites(plain).found)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl, tiny_pixart], ids=["sd", "sdxl", "pixart"])
def test_pipelines(make, capsys: pytest.CaptureFixture) -> None:
    pipe: DiffusionPipeline = make()
    pipe.set_progress_bar_config(leave=False)
    options = dict(TWO_STEPS.options)
    if make is tiny_pixart:
        options["use_resolution_binning"] = False
    generation = Generation(["red cat", "sun"], (0, 1), (900, 100), 2, options)
    unseen = [np.asarray(image) for _, image in generation.images(pipe)]
    hooks = hooks_of(denoiser_of(pipe))
    capsys.readouterr()
    profile = analyze(pipe, generation, Sampling(field_queries=1, field_directions=1))
    assert "100%" in capsys.readouterr().err
    assert profile.example is not None
    assert (np.asarray(profile.example.image) == unseen[0]).all()
    assert all(
        (np.asarray(image) == old).all() for (_, image), old in zip(generation.images(pipe), unseen, strict=True)
    )
    assert hooks_of(denoiser_of(pipe)) == hooks
    assert pipe._progress_bar_config == {"leave": False}
    assert list(profile.layers) == list(find_sites(denoiser_of(pipe)).found)
    schedule = {round(float(t)) for t in pipe.scheduler.timesteps}
    for layer in profile.layers.values():
        assert {timestep.timestep for timestep in layer.timesteps} == schedule
        assert layer.grid[1] > layer.grid[0]
        batch = 2  # guidance
        assert profile.example.maps.keys() == profile.layers.keys()
        assert layer.pairs.sum() == batch * 4 * 2 * layer.queries * layer.grid[0] * layer.grid[1]


def test_only_the_chosen_timesteps_count() -> None:
    pipe = tiny_sd()
    generation = Generation(["sun"], timesteps=(700, 20), num_inference_steps=5)
    profile = analyze(pipe, generation, Sampling(field_queries=1), progress=False)
    schedule = pipe.scheduler.timesteps.tolist()
    nearest = {min(schedule, key=lambda t: abs(t - wanted)) for wanted in (700, 20)}
    assert {t.timestep for layer in profile.layers.values() for t in layer.timesteps} == nearest
    assert len(nearest) == 2


def test_an_attached_fusion_is_refused() -> None:
    pipe = tiny_sd()
    DeltaConvFusion.convert(pipe, kernel_size=3)
    with pytest.raises(RuntimeError, match="a fusion is attached; call its detach"):
        analyze(pipe, TWO_STEPS)


def test_nothing_recorded_is_an_error() -> None:
    with record(tiny_sd_unet()) as recording:
        pass
    with pytest.raises(ValueError, match="no self-attention ran"):
        profile_of(recording)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "cat"}, "prompts: expected a sequence of at least one, got 'cat'"),
        ({"prompts": ["cat"], "seeds": []}, "seeds: expected a sequence"),
        ({"prompts": ["cat"], "num_inference_steps": 0}, "num_inference_steps: expected a positive number, got 0"),
    ],
)
def test_generations_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generation(**options)


@pytest.mark.parametrize("name", ["max_queries", "window_queries", "field_queries", "field_directions"])
def test_samplings_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a positive number, got 0"):
        Sampling(**{name: 0})


@pytest.mark.parametrize("make", [tiny_sd, tiny_pixart], ids=["sd", "pixart"])
def test_windows_that_hold_the_grid_change_nothing(make) -> None:
    pipe = make()
    hooks, layers = hooks_of(denoiser_of(pipe)), find_sites(denoiser_of(pipe)).found
    options = {"use_resolution_binning": False} if make is tiny_pixart else {}
    generation = Generation(["sun"], (0,), (500,), 2, {"height": 16, "width": 24, **options})
    expected = [np.asarray(image) for _, image in generation.images(pipe)]
    whole = ablate_windows(pipe, generation, dict.fromkeys(layers, 31), progress=False)
    assert whole.prediction < 1e-10 < 1e-8 < whole.mean < 2 * whole.removed
    assert all(change.layer < 1e-10 and change.prediction < 1e-10 for change in whole.layers.values())
    assert all(0 < change.removed < 1 for change in whole.layers.values())
    small = ablate_windows(pipe, generation, dict.fromkeys(layers, 3), progress=False)
    alone = ablate_windows(pipe, generation, dict.fromkeys(layers, 3), WINDOW_ONLY, progress=False)
    assert 1e-10 < small.prediction < small.removed
    assert alone.prediction != small.prediction
    assert small.removed == whole.removed
    assert (np.asarray(whole.images["unchanged"]) == expected[0]).all()
    assert not (np.asarray(whole.images["removed"]) == expected[0]).all()
    assert hooks_of(denoiser_of(pipe)) == hooks
    assert (np.asarray(next(generation.images(pipe))[1]) == expected[0]).all()


def test_ablations_that_cannot_be() -> None:
    pipe = tiny_sd()
    with pytest.raises(ValueError, match=r"kernel_sizes: expected exactly the layers .*unknown"):
        ablate_windows(pipe, TWO_STEPS, {"mid": 3})
    with pytest.raises(ValueError, match="kind: expected one of"):
        ablate_windows(pipe, TWO_STEPS, dict.fromkeys(find_sites(pipe.unet).found, 3), kind="window")
