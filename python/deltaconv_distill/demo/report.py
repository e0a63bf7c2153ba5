"""report.html: one file without outside references that tells a newcomer what was done and what to see."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..analysis import Profile, report_fragment
from ..distillation import DistillConfig
from .settings import MMDIT, UNET
from .summary import counted, describe_load, predicted
from .variants import VARIANTS

PAPER = DistillConfig()
# Settings whose difference from the paper's recipe a reader would want to know.
RECIPE = (
    "learning_rate",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "lr_scheduler",
    "lr_warmup_steps",
    "train_batch_size",
    "proportion_empty_prompts",
    "w_noise",
    "w_kd",
    "w_feat",
    "max_grad_norm",
    "use_ema",
    "fit_batches",
    "stage1_steps",
    "stage1_repeats",
)
MODELS = {UNET: "embedded", MMDIT: "embedded-mmdit"}  # what the other commands call the teachers
JOINT = """ Its attention is joint: the words of the prompt and the points of the picture attend to one another in one
step, as in Stable Diffusion 3. All that words take part in stays as it is; what is replaced is the attention of
points to points, the part whose cost grows with the square."""
PRECISIONS = {"no": "float32", "bf16": "bfloat16 autocast"}
# Of the table of errors; the last three are there where the run computed distances between pictures.
COLUMNS = {
    "noise_mse": "error in predicting $predicted",
    "teacher_mse": "difference from the teacher’s prediction",
    "pixel_difference": "difference from the teacher’s pictures",
    "fd_real": "FD-EffNet to real emoji",
    "fd_teacher": "FD-EffNet to the teacher’s pictures",
}
DISTANCES = """<b>Pictures</b>: mean absolute difference of pixels, 0 to 1, over $samples pictures with the same prompts
and noise, drawn in $precision. <b>FD-EffNet</b>: Fréchet distance between features of EfficientNet-Lite0 of those
$samples pictures and of the $samples emoji with these names, or of the teacher’s $samples pictures. It is not FID,
depends on the number of pictures, and means something only within this table."""
NO_DISTANCES = "Distances between pictures were skipped in this run (<code>--skip-distances</code>)."


def write_report(figures: dict[str, Any], profile: Profile, folder: Path) -> Path:
    """Fill the template from figures.json's content, the analysis and the folder's pictures; returns report.html."""
    template = Template((files(__package__) / "report.html").read_text(encoding="utf-8"))
    path = folder / "report.html"
    values = {**_values(figures, folder), "analysis": report_fragment(profile)}
    path.write_text(template.substitute(values), encoding="utf-8")
    return path


def _values(figures: dict[str, Any], folder: Path) -> dict[str, str]:
    training, machine, times = figures["training"], figures["machine"], figures["timing"]
    return {
        "summary": _summary(figures),
        "tiles": _tiles(figures),
        "precision": PRECISIONS[training["config"]["mixed_precision"]],
        "grid": _picture(
            folder, "grid", "Images of the four variants, one row each, same prompt and noise in a column"
        ),
        "losses": _picture(folder, "losses", "The loss terms falling over the training steps"),
        "times": _picture(folder, "times", "Milliseconds of a denoising step, teacher and student"),
        **_quality(figures),
        "predicted": predicted(figures),
        "held": str(figures["settings"]["held_examples"]),
        "model": MODELS[figures["settings"]["teacher"]],
        "joint": JOINT if any(layer["text"] for layer in figures["conversion"]["layers"]) else "",
        "load": _load(training["load"]),
        "time_rows": _rows(
            (
                f"{t['size']}×{t['size']}",
                t["tokens"],
                f"{t['teacher_ms']:.3g}",
                f"{t['student_ms']:.3g}",
                f"{t['speedup']:.2f}×",
            )
            for t in times
        ),
        "layers": str(len(figures["conversion"]["layers"])),
        "layer_rows": _rows(
            (layer["name"], layer["dim"], layer["kernel_size"], f"{layer['block_parameters']:,}")
            for layer in figures["conversion"]["layers"]
        ),
        "trained": f"{figures['conversion']['parameters_trained']:,}",
        "whole": f"{figures['conversion']['parameters_teacher']:,}",
        "steps": f"{training['steps']:,}",
        "stage1_steps": f"{training['stage1']['steps']:,}",
        "stage1_seconds": f"{training['stage1']['seconds']:.0f}",
        "fitted": str(training["config"]["fit_batches"] * training["config"]["train_batch_size"]),
        "sizes": _listed(sorted({layer["kernel_size"] for layer in figures["conversion"]["layers"]})),
        "minutes": f"{training['seconds'] / 60:.1f}",
        "skipped": str(training["skipped"]),
        "recipe_rows": _recipe_rows(training["config"]),
        "cpu": html.escape(machine["cpu"]["name"]),
        "cores": str(machine["cpu"]["usable_cores"]),
        "versions": html.escape(
            ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
        ),
        "package": html.escape(f"deltaconv-kernels {machine['package'] or '(not installed)'}"),
        "commit": html.escape(f", commit {machine['commit'][:12]}" if machine["commit"] else ""),
        "backend": html.escape(figures["backend"]),
        "date": html.escape(figures["date"]),
        "stage_rows": _stage_rows(figures["stages"]),
        "whole_minutes": f"{figures['seconds'] / 60:.1f}",
    }


def _summary(figures: dict[str, Any]) -> str:
    quality, training = figures["quality"], figures["training"]
    closer = quality["removed"]["teacher_mse"] / quality["student"]["teacher_mse"]
    return (
        f"After {training['seconds'] / 60:.1f} minutes of training on this machine, convolutions stand in for all "
        f"{len(figures['conversion']['layers'])} self-attentions of the model, and what it predicts is "
        f"{closer:.0f} times closer to the original than with self-attention simply left out."
    )


def _tiles(figures: dict[str, Any]) -> str:
    largest = max(figures["timing"], key=lambda time: time["size"])
    minutes, threads = figures["training"]["seconds"] / 60, figures["training"]["load"]["threads"]
    won_back, speedup, pixels = (
        _won_back(figures["quality"]),
        largest["speedup"],
        f"{largest['size']}×{largest['size']}",
    )
    tiles = (
        (
            f"{100 * won_back:.0f} %",
            f"of the {predicted(figures)} error that appears when attention is removed is won back",
        ),
        (f"{minutes:.1f} min", f"of training on {counted(threads, 'CPU core')}"),
        (f"{speedup:.1f}×", f"the teacher's speed in a denoising step at {pixels} pixels"),
    )
    return "\n".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in tiles)


def _won_back(quality: dict[str, dict[str, float]]) -> float:
    """Share of the gap in noise error between "attention removed" and the teacher that the student closes."""
    removed, student, teacher = (quality[key]["noise_mse"] for key in ("removed", "student", "teacher"))
    return (removed - student) / (removed - teacher)


def _quality(figures: dict[str, Any]) -> dict[str, str]:
    """The table of errors, with the distances between pictures where they were computed, and what is said of those."""
    quality, samples = figures["quality"], figures["settings"]["distance_samples"]
    precision = figures["training"]["config"]["mixed_precision"]
    columns = {column: title for column, title in COLUMNS.items() if column in quality[VARIANTS[0].key]}
    heads = [Template(title).substitute(predicted=predicted(figures)) for title in columns.values()]
    rows = []
    for variant in VARIANTS:
        cells = "".join(f"<td>{_figure(quality[variant.key][column])}</td>" for column in columns)
        swatch = f'<span class="swatch" style="background:{variant.colour}"></span>'
        rows.append(f'<tr><th scope="row">{swatch}{variant.title}<small>{variant.note}</small></th>{cells}</tr>')
    return {
        "quality_heads": "".join(f"<th>{head}</th>" for head in heads),
        "quality_rows": "\n".join(rows),
        "distances": Template(DISTANCES).substitute(samples=samples, precision=PRECISIONS[precision])
        if samples
        else NO_DISTANCES,
    }


def _load(load: dict[str, Any]) -> str:
    """A warning where others used the machine, else the facts."""
    if load["is_loaded"]:
        return f'<p class="busy"><b>A busy machine.</b> {html.escape(describe_load(load))}</p>'
    return (
        f'<p class="note">The training had {load["cores"]:.1f} of {counted(load["threads"], "core")} to itself: '
        f"{load['steps']:,} steps, of about {load['expected_steps']:,} that could have fitted into its time.</p>"
    )


def _stage_rows(stages: Sequence[dict[str, Any]]) -> str:
    return _rows(
        (
            stage["title"],
            "" if stage["expected_seconds"] is None else f"{stage['expected_seconds']:.0f} s",
            f"{stage['seconds']:.0f} s",
            f"{stage['processor_seconds']:.0f} s",
        )
        for stage in stages
    )


def _recipe_rows(config: dict[str, Any]) -> str:
    rows = []
    for name in RECIPE:
        ours, paper = config[name], getattr(PAPER, name)
        changed = ' class="changed"' if ours != paper else ""
        rows.append(f"<tr{changed}><th scope='row'><code>{name}</code></th><td>{ours}</td><td>{paper}</td></tr>")
    return "\n".join(rows)


def _listed(sizes: Sequence[int]) -> str:
    *others, last = (f"{size}×{size}" for size in sizes)
    return f"{', '.join(others)} and {last}" if others else last


def _rows(rows: Iterable[Sequence[Any]]) -> str:
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{html.escape(str(first))}</th>{cells}</tr>')
    return "\n".join(lines)


def _figure(value: float) -> str:
    if value < 1e-9:  # a variant against itself, up to rounding in the square root of a covariance
        return "0"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _picture(folder: Path, name: str, description: str) -> str:
    """An image for light pages and its twin for dark ones, both inline."""
    light, dark = (_data_url(folder / f"{name}{suffix}.png") for suffix in ("", "-dark"))
    return (
        f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{html.escape(description)}"></picture>'
    )


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
