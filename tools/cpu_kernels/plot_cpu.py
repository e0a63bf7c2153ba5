"""Measures the CPU kernels and draws docs/images/cpu.png: a roofline, time against pixels, time against threads.

`python tools/cpu_kernels/plot_cpu.py` measures, writes bench/results/cpu.json and draws; `--draw` draws what that file
holds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from deltaconv_distill.atomic import atomic_file
from deltaconv_distill.machine import describe_machine

from deltaconv_kernels import pyramid
from deltaconv_kernels.testing import GPU_ONLY_SHAPES, NAMED_SHAPES, Shape, make_case, run_with_gradients

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from timing import interleaved_medians  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "cpu.json"
IMAGE = ROOT / "docs" / "images" / "cpu.png"
SHAPES = {name: shape for name, shape in NAMED_SHAPES.items() if name not in GPU_ONLY_SHAPES}
SIDES = (16, 32, 64, 128, 256, 512)
CHANNELS, KERNEL_SIZE = 160, 9  # of the growth with pixels: SD1.5's outermost level
THREADS_SHAPE = "sdxl-64-k9"
SGEMM_SIZE, COPY_BYTES = 1024, 2**28
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"  # Okabe and Ito's, for every kind of sight


def forward(shape: Shape) -> Callable[[], object]:
    return torch.no_grad()(partial(pyramid, *make_case(shape).arguments))


def training(shape: Shape) -> Callable[[], object]:
    return partial(run_with_gradients, pyramid, make_case(shape))


def sgemm() -> Callable[[], object]:
    a, b = torch.randn(SGEMM_SIZE, SGEMM_SIZE), torch.randn(SGEMM_SIZE, SGEMM_SIZE)
    return lambda: a @ b


def copy() -> Callable[[], object]:
    source, target = torch.ones(COPY_BYTES // 4), torch.empty(COPY_BYTES // 4)
    return lambda: target.copy_(source)


def measure() -> dict[str, Any]:
    roofs = interleaved_medians({"sgemm": sgemm(), "copy": copy()}, seconds=2)
    points = interleaved_medians({name: forward(shape) for name, shape in SHAPES.items()}, seconds=4)
    return {
        "command": "python tools/cpu_kernels/plot_cpu.py",
        "date": date.today().isoformat(),
        "machine": describe_machine(),
        "sgemm_gflops": 2e-9 * SGEMM_SIZE**3 / roofs["sgemm"],
        "copy_gigabytes_per_second": 2e-9 * COPY_BYTES / roofs["copy"],
        "roofline": {
            name: {
                "flops_per_byte": shape.flops / shape.bytes(torch.float32),
                "gflops": 1e-9 * shape.flops / points[name],
            }
            for name, shape in SHAPES.items()
        },
        "seconds_by_pixels": {"forward": measure_growth(forward), "forward + backward": measure_growth(training)},
        "seconds_by_threads": measure_threads(),
    }


def measure_growth(make: Callable[[Shape], Callable[[], object]]) -> dict[int, float]:
    problems = {side * side: make(Shape(1, side, side, CHANNELS, KERNEL_SIZE)) for side in SIDES}
    return {pixels: interleaved_medians({"ours": problem})["ours"] for pixels, problem in problems.items()}


def measure_threads() -> dict[str, dict[int, float]]:
    """Every number of threads takes its turn in each round."""
    functions = {"forward": forward(SHAPES[THREADS_SHAPE]), "forward + backward": training(SHAPES[THREADS_SHAPE])}
    before, counts = torch.get_num_threads(), range(1, len(os.sched_getaffinity(0)) + 1)

    def with_threads(count: int, function: Callable[[], object]) -> None:
        torch.set_num_threads(count)
        function()

    try:
        turns = {f"{name} {n}": partial(with_threads, n, f) for name, f in functions.items() for n in counts}
        times = interleaved_medians(turns, seconds=3)
    finally:
        torch.set_num_threads(before)
    return {name: {n: times[f"{name} {n}"] for n in counts} for name in functions}


def draw(results: dict[str, Any]) -> None:
    figure, panels = plt.subplots(
        1, 3, figsize=(14, 4.6), width_ratios=(1.1, 1, 1), layout="constrained", facecolor="white"
    )
    draw_roofline(panels[0], results)
    draw_growth(panels[1], results["seconds_by_pixels"])
    draw_threads(panels[2], results["seconds_by_threads"])
    machine = results["machine"]
    figure.supxlabel(
        f"{machine['cpu']['name']}, {machine['cpu']['torch_threads']} threads, float32, "
        f"torch {machine['versions']['torch']}, {results['date']}",
        fontsize=8,
        color=GREY,
    )
    IMAGE.parent.mkdir(exist_ok=True)
    figure.savefig(IMAGE, dpi=110)


def draw_roofline(panel: Any, results: dict[str, Any]) -> None:
    peak, bandwidth = results["sgemm_gflops"], results["copy_gigabytes_per_second"]
    points = sorted(results["roofline"].items(), key=lambda item: item[1]["gflops"])
    left, right = 0.7 * min(point["flops_per_byte"] for _, point in points), 100
    panel.plot([left, peak / bandwidth, right], [left * bandwidth, peak, peak], color=GREY, lw=1.5)
    panel.text(left, peak, f"sgemm {peak:.0f} GFLOP/s, copy {bandwidth:.0f} GB/s", va="bottom", color=GREY)
    for i, (name, point) in enumerate(points):
        position, label = (point["flops_per_byte"], point["gflops"]), (1.03, (i + 0.5) / len(points))
        panel.plot(*position, "o", color=BLUE, ms=5)
        line = {"arrowstyle": "-", "color": GREY, "lw": 0.4, "alpha": 0.6}
        panel.annotate(name, position, label, textcoords="axes fraction", va="center", fontsize=8, arrowprops=line)
    panel.set(xscale="log", yscale="log", xlabel="FLOP a byte of x, result and weights", ylabel="GFLOP/s")
    panel.set_title("forward on the named shapes")
    panel.grid(alpha=0.3)


def draw_growth(panel: Any, growth: dict[str, dict[str, float]]) -> None:
    for (name, times), color, marker in zip(growth.items(), (BLUE, ORANGE), "os", strict=True):
        pixels, milliseconds = [int(count) for count in times], [1e3 * seconds for seconds in times.values()]
        panel.plot(pixels, milliseconds, f"{marker}-", color=color, label=name)
        linear = [milliseconds[2] * count / pixels[2] for count in pixels]
        panel.plot(pixels, linear, "--", color=GREY, lw=1, label="linear" if marker == "s" else None)
    panel.set(xscale="log", yscale="log", xlabel="pixels, H · W", ylabel="milliseconds")
    panel.set_title(f"time against pixels, inter = {CHANNELS}, K = {KERNEL_SIZE}")
    panel.legend()
    panel.grid(alpha=0.3)


def draw_threads(panel: Any, threads: dict[str, dict[str, float]]) -> None:
    counts = [int(count) for count in next(iter(threads.values()))]
    panel.plot(counts, counts, "--", color=GREY, label="linear")
    for (name, times), color, marker in zip(threads.items(), (BLUE, ORANGE), "os", strict=True):
        alone = next(iter(times.values()))
        panel.plot(counts, [alone / seconds for seconds in times.values()], f"{marker}-", color=color, label=name)
    panel.set(xlabel="threads", ylabel="times faster than one thread", xticks=counts, ylim=(0, None))
    panel.set_title(f"threads, {THREADS_SHAPE}")
    panel.legend()
    panel.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="draw the figures of an earlier run")
    if not parser.parse_args().draw:
        with atomic_file(RESULTS, "w") as file:
            json.dump(measure(), file, indent=1)
            file.write("\n")
    draw(json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
