"""The profile as a file, as a page, as kernel sizes for a conversion, and as a command."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import (
    Generation,
    Profile,
    Sampling,
    ablate_windows,
    analyze,
    report_fragment,
    schema,
    write_report,
)
from deltaconv_distill.cli import main
from diffusers import StableDiffusionPipeline
from tiny_pipelines import tiny_sd, tiny_sd_unet

GENERATION = Generation(["red <b>cat</b>"], (0,), (900, 100), 2, {"height": 16, "width": 24})


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return tiny_sd()


@pytest.fixture(scope="module")
def profile(pipe: StableDiffusionPipeline) -> Profile:
    found = analyze(pipe, GENERATION, Sampling(field_queries=1), progress=False)
    found.ablation = ablate_windows(pipe, GENERATION, found.kernel_sizes, progress=False)
    return found


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_round_trip(profile: Profile, tmp_path: Path) -> None:
    """What is read is what was written, to five digits; and what is written again is the same file."""
    path = profile.save(tmp_path / "profile.json")
    jsonschema.validate(json.loads(path.read_text()), schema())
    read = Profile.load(path)
    assert read.save(tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert (read.model, read.settings, read.machine) == (profile.model, profile.settings, profile.machine)
    assert read.kernel_sizes == profile.kernel_sizes
    assert read.not_local == profile.not_local
    for name, layer in profile.layers.items():
        same = read.layers[name]
        torch.testing.assert_close(same.relative_map, layer.relative_map, rtol=1e-4, atol=0)
        torch.testing.assert_close(same.bias, layer.bias, rtol=1e-4, atol=0)
        assert (same.grid, same.window_sizes, same.fit.form) == (layer.grid, layer.window_sizes, layer.fit.form)
        for ours, theirs in zip(same.timesteps, layer.timesteps, strict=True):
            for entry in dataclasses.fields(ours):
                value = getattr(theirs, entry.name)
                if isinstance(value, torch.Tensor):
                    torch.testing.assert_close(getattr(ours, entry.name), value, rtol=1e-4, atol=1e-30)
            assert [fit.form for fit in ours.fits] == [fit.form for fit in theirs.fits]
    assert read.example is not None
    assert profile.example is not None
    assert (np.asarray(read.example.image) == np.asarray(profile.example.image)).all()
    assert read.ablation is not None
    assert read.ablation.layers.keys() == profile.layers.keys()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda record: record.update(version=2), r"\$\.version"),
        (lambda record: record["layers"].clear(), r"\$\.layers"),
        (lambda record: next(iter(record["layers"].values())).update(kernel_size=4), "kernel_size"),
        (lambda record: next(iter(record["layers"].values())).pop("bias"), "'bias' is a required property"),
        (lambda record: record.update(extra=1), "extra"),
    ],
    ids=["version", "empty", "even", "missing", "extra"],
)
def test_files_that_break_the_schema(change, where: str, profile: Profile, tmp_path: Path) -> None:
    record = json.loads(profile.save(tmp_path / "profile.json").read_text())
    change(record)
    (tmp_path / "broken.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"path: .*broken.json is no attention profile: .*{where}"):
        Profile.load(tmp_path / "broken.json")
    for content in (b"no", '{"modèle": 1}'.encode("latin-1")):
        (tmp_path / "text.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"path: .*text.json is no JSON file"):
            Profile.load(tmp_path / "text.json")


class Page(HTMLParser):
    """Tags that are open, and everything that a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.pictures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "source", "br", "wbr", "link"):
            self.open.append(tag)
        given = dict(attributes)
        self.pictures += tag == "img"
        assert tag != "img" or given["alt"]
        self.loads += [value for name in ("src", "srcset", "href") if (value := given.get(name))]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_needs_no_other_file(profile: Profile, tmp_path: Path) -> None:
    text = write_report(profile, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(re.match("data:image/(png|jpeg);base64,", load) for load in page.loads)
    # of each layer three points, the mean map and the curves; of the ablation four pictures
    assert page.pictures == 5 * len(profile.layers) + 4
    assert text.count("prefers-color-scheme: dark") == 1 + len(profile.layers)
    assert all(name in text.replace("<wbr>", "") for name in profile.layers)
    assert "red &lt;b&gt;cat&lt;/b&gt;" in text
    assert "<b>cat" not in text
    assert not re.search(r"\$\w", text)


def test_a_report_of_less(profile: Profile) -> None:
    one = dict(list(profile.layers.items())[:1])
    bare = dataclasses.replace(profile, layers=one, example=None, ablation=None)
    page = Page(report_fragment(bare))
    assert page.open == []
    assert page.pictures == 2


@pytest.mark.parametrize("how", ["kernel_size", "profile", "auto"])
def test_a_profile_gives_kernel_sizes(how: str, profile: Profile) -> None:
    unet = tiny_sd_unet()
    arguments = {"kernel_size": profile} if how == "kernel_size" else {"kernel_size": how, "profile": profile}
    fusion = DeltaConvFusion.convert(unet, **arguments)  # type: ignore[arg-type]
    assert {name: block.kernel_size for name, block in fusion.blocks.items()} == profile.kernel_sizes
    assert fusion.config.kernel_sizes_from == "from the profile"


def test_layers_that_are_not_local_are_warned_of(profile: Profile, caplog: pytest.LogCaptureFixture) -> None:
    names = list(profile.layers)
    layers = {
        name: dataclasses.replace(layer, not_local="it looks far away" if name == names[1] else None)
        for name, layer in profile.layers.items()
    }
    far = dataclasses.replace(profile, layers=layers)
    with caplog.at_level(logging.WARNING):
        DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=far)
    assert f"1 of {len(names)} self-attentions are not local" in caplog.text
    assert f"it looks far away); keep their attention with exclude=['{names[1]}']" in caplog.text
    caplog.clear()
    fusion = DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=far, exclude=list(far.not_local))
    assert names[1] not in fusion.blocks
    assert "not local" not in caplog.text


def test_profiles_that_do_not_fit(profile: Profile) -> None:
    part = dataclasses.replace(profile, layers=dict(list(profile.layers.items())[1:]))
    with pytest.raises(ValueError, match=r"profile: it was made for another model.*missing \['down_blocks.0"):
        DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=part)
    with pytest.raises(ValueError, match="kernel_size: 'profile' expects profile="):
        DeltaConvFusion.convert(tiny_sd_unet(), kernel_size="profile")
    with pytest.raises(ValueError, match="profile: kernel_size is a profile already"):
        DeltaConvFusion.convert(tiny_sd_unet(), kernel_size=profile, profile=profile)


def test_command_on_the_embedded_teacher(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "analysis"
    arguments = ["analyze", "--output", str(output), "--num_inference_steps", "2", "--timesteps", "500", "--ablate"]
    assert (
        main([*arguments, "--prompt", "fruit", "--max_queries", "64", "--seeds", "0,1", "--guidance_scale", "1"]) == 0
    )
    printed = capsys.readouterr()
    assert "100%" in printed.err
    assert "analyse" in printed.err
    profile = Profile.load(output / "profile.json")
    assert len(profile.layers) == 7
    assert all(re.search(rf"{re.escape(name)} .* {k} ", printed.out) for name, k in profile.kernel_sizes.items())
    assert str(output / "report.html") in printed.out
    assert "change of the prediction with windows" in printed.out
    assert (output / "report.html").is_file()
    sampling = profile.settings["sampling"]
    assert sampling["max_queries"] == 64
    assert profile.settings["generation"]["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--share", "2"], "--share: expected a number between 0 and 1, got 2.0"),
        (["--max_kernel_size", "4"], "--max_kernel_size: expected an odd number from 3 to 31, got 4"),
        (["--seeds", "a"], "--seeds: expected numbers separated by commas, got 'a'"),
        (["--num_inference_steps", "0"], "--num_inference_steps: expected a positive number, got 0"),
        (["--max_queries", "-1"], "--max_queries: expected a positive number, got -1"),
        (["--height", "64"], "--height, --width: expected both or neither"),
        (["--model", "no/such/model/at/all"], "--model: expected 'embedded', a folder"),
        (["--height", "17", "--width", "17"], "have to be divisible by 8"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["analyze", *arguments]) == 2
    error = capsys.readouterr().err
    assert f"deltaconv analyze: {message}" in error or message in error
    assert "Traceback" not in error
