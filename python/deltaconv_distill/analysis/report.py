"""The analysis as a page for people: one file without outside references, or a fragment of another page."""

from __future__ import annotations

import html
import json
import os
import statistics
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

import torch

from ..atomic import atomic_file
from ..conversion.plan import ConversionPlan
from .pictures import curves, heat_map, relative_picture
from .plan_section import plan_section
from .profile import Profile
from .records import Ablation, LayerProfile, TimestepProfile
from .theme import picture

ABLATION_TITLES = {
    "unchanged": "Self-attention",
    "windows": "K×K windows",
    "mean": "The mean alone",
    "removed": "Nothing",
}
HEAD_TITLES = (
    "timestep, head", "K", "fall-off", "half width", "R²", "local part", "bias", "entropy", "anisotropy", "in K×K",
    "explained",
)  # fmt: skip
ABLATION_NOTE = (
    "Change of prediction: relative squared change of the predicted noise when this layer alone is replaced by K×K "
    "windows; below it, by nothing."
)


def write_report(profile: Profile, path: str | os.PathLike[str], plan: ConversionPlan | None = None) -> Path:
    """Write the page, with the plan where there is one; returns its path."""
    versions = {**profile.machine["versions"]}
    machine = [profile.machine["cpu"]["name"], *(f"{name} {version}" for name, version in versions.items() if version)]
    text = _template("page.html").substitute(
        model=html.escape(profile.model),
        fragment=report_fragment(profile, plan),
        date=html.escape(profile.machine["date"]),
        machine=html.escape(" · ".join(machine)),
        settings=html.escape(json.dumps(profile.settings, ensure_ascii=False)),
    )
    with atomic_file(path, "w") as file:
        file.write(text)
    return Path(path)


def report_fragment(profile: Profile, plan: ConversionPlan | None = None) -> str:
    """The findings as HTML for the body of a page that defines the colours --line, --mark, --soft and --text."""
    ablation = profile.ablation
    return _template("fragment.html").substitute(
        summary=_summary(profile),
        tiles=_tiles(profile),
        ablation="" if ablation is None else _ablation(ablation),
        plan="" if plan is None else plan_section(plan),
        share=f"{100 * profile.settings['rule']['share']:g}",
        ablation_heads="" if ablation is None else "<th>change of prediction</th>",
        ablation_note="" if ablation is None else f" {ABLATION_NOTE}",
        rows="\n".join(_row(name, layer, ablation) for name, layer in profile.layers.items()),
        looks=_how_to_look(profile),
        layers="\n".join(_layer(name, profile) for name in profile.layers),
    )


def _summary(profile: Profile) -> str:
    sizes, total, far = profile.kernel_sizes.values(), len(profile.layers), len(profile.not_local)
    share = statistics.fmean(float(layer.explained) for layer in profile.layers.values())
    return (
        f"{total - far} of the {total} self-attentions are local: a window of {min(sizes)} to {max(sizes)} tokens and "
        f"one average stand for most of what they do. That explains {100 * share:.0f} % of the outputs’ variance, the "
        "mean over all layers."
    )


def _tiles(profile: Profile) -> str:
    layers = profile.layers.values()
    bias = statistics.fmean(_mean(layer, "bias_share") for layer in layers)
    tiles = [
        (f"{statistics.median(profile.kernel_sizes.values()):g}", "tokens wide is the median kernel"),
        (f"{100 * bias:.0f} %", "of all attention is a constant bias, the same for near and far"),
        (f"{len(profile.layers) - len(profile.not_local)} / {len(profile.layers)}", "layers are local"),
    ]
    if profile.ablation is not None:
        kept = 1 - profile.ablation.prediction / profile.ablation.removed
        tiles.append(
            (f"{100 * kept:.0f} %", "of what attention does for the prediction is left with windows, untrained")
        )
    return "\n".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in tiles)


def _ablation(ablation: Ablation) -> str:
    changes = {"windows": ablation.prediction, "mean": ablation.mean, "removed": ablation.removed}
    figures = []
    for key, title in ABLATION_TITLES.items():
        note = f"prediction changes by {100 * changes[key]:.2g} %" if key in changes else "the model as it is"
        image = picture(ablation.images[key], f"Generated with: {title}")
        figures.append(f"<figure>{image}<figcaption><b>{title}</b><br>{note}</figcaption></figure>")
    return (
        "<h2>Windows in the place of self-attention, without training</h2>"
        f"<p>Every layer sees only a K×K window ({ablation.kind}), with K from the table below. It is what is "
        "lost before anything is learned; distilled blocks make up for each other and can do better. Same prompt and "
        "noise; percentages are squared changes of the predicted noise.</p>"
        f'<div class="looks">{"".join(figures)}</div>'
    )


def _row(name: str, layer: LayerProfile, ablation: Ablation | None) -> str:
    height, width = layer.grid
    field = statistics.fmean(timestep.field_sizes["0.8"] for timestep in layer.timesteps)
    cells = [
        f"{height}×{width}",
        f"<b>{layer.kernel_size}</b>",
        f"{layer.fit.form}<small>R² {layer.fit.r2:.2f}</small>",
    ]
    cells += [f"{layer.fit.half_width:.1f}", f"{100 * _mean(layer, 'bias_share'):.0f} %"]
    cells += [f"{_mean(layer, 'entropy'):.2f}", f"{field:.0f}", f"{100 * layer.explained:.0f} %"]
    if ablation is not None:
        change = ablation.layers[name]
        cells.append(f"{100 * change.prediction:.2g} %<small>{100 * change.removed:.2g} %</small>")
    if layer.text_share is not None:
        cells[0] += f"<small>{100 * layer.text_share.mean():.0f} % to the text</small>"
    far = ' class="far"' if layer.not_local else ""
    why = f"<small>{html.escape(layer.not_local)}</small>" if layer.not_local else ""
    head = f'<th scope="row">{_code(name)}{why}</th>'
    return f"<tr{far}>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _how_to_look(profile: Profile) -> str:
    example = profile.example
    squares = "The outer square is the layer’s K×K window, the inner one the token that looks. Brighter is stronger."
    if example is None:
        return f"Each map shows how strongly a token looks at those at each displacement from it. {squares}"
    return (
        f"The picture being made is “{html.escape(example.prompt)}”, at timestep {example.timestep}, shown finished "
        "and grey. In each map one token looks at all others, the mean over heads. The last map is the mean over all "
        f"queries, images and timesteps, by displacement from the query, without a picture. {squares}"
    )


def _layer(name: str, profile: Profile) -> str:
    layer, example = profile.layers[name], profile.example
    pictures = [relative_picture(layer)]
    if example is not None and name in example.maps:
        points = range(len(example.points))
        pictures = [heat_map(example, name, point, layer.kernel_size, layer.grid) for point in points] + pictures
    badge = '<span class="badge far">not local</span>' if layer.not_local else '<span class="badge">local</span>'
    return (
        f'<section class="layer"><h3>{_code(name)} <span class="badge">K = {layer.kernel_size}</span> {badge}</h3>'
        f'<div class="looks">{"".join(pictures)}</div>{curves(name, layer)}'
        f"<details><summary>Each head at each timestep</summary>{_heads(layer)}</details></section>"
    )


def _heads(layer: LayerProfile) -> str:
    rows = [row for timestep in layer.timesteps for row in _head_rows(layer, timestep)]
    titles = HEAD_TITLES if layer.text_share is None else (*HEAD_TITLES, "to the text")
    header = "".join(f"<th>{title}</th>" for title in titles)
    return (
        f'<div class="scroll"><table class="heads"><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _head_rows(layer: LayerProfile, timestep: TimestepProfile) -> Iterable[str]:
    window = layer.window_sizes.index(min(layer.kernel_size, layer.window_sizes[-1]))
    for head, fit in enumerate(timestep.fits):
        cells = [
            layer.head_kernel_sizes[head],
            fit.form,
            f"{fit.half_width:.1f}",
            f"{fit.r2:.2f}",
            f"{100 * timestep.local_share[head]:.0f} %",
            f"{100 * timestep.bias_share[head]:.0f} %",
            f"{timestep.entropy[head]:.2f}",
            f"{timestep.anisotropy[head]:.2f}",
            f"{100 * timestep.window_share[head, window]:.0f} %",
            f"{100 * timestep.window_variance[head, window]:.0f} %",
        ]
        if timestep.text_share is not None:
            cells.append(f"{100 * timestep.text_share[head]:.0f} %")
        row = f'<th scope="row">{timestep.timestep}, {head}</th>'
        yield f"<tr>{row}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _code(name: str) -> str:
    """A layer's name, which may be broken after its dots."""
    return f"<code>{html.escape(name).replace('.', '.<wbr>')}</code>"


def _mean(layer: LayerProfile, name: str) -> float:
    return torch.stack([getattr(timestep, name) for timestep in layer.timesteps]).mean().item()


def _template(name: str) -> Template:
    return Template((files(__package__) / name).read_text(encoding="utf-8"))
