"""Draws the tables of docs from the JSON files that `tools/gpu_check.sh` left.

`python tools/gpu_results/draw_gpu_tables.py FILE …` prints Markdown. Several files of one machine and commit are read
as one. With --into PAGE it replaces what stands between the page's lines `<!-- gpu -->` and `<!-- /gpu -->`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MARKERS = "<!-- gpu -->\n", "<!-- /gpu -->\n"
OURS = ("cuda", "triton")
SIDES_OF_BLOCK = {
    "blocks": "block",
    "composed": "composed block",
    "blocks compiled": "compiled block",
    "attention": "SDPA",
    "attention compiled": "compiled SDPA",
}
PROFILED = (
    "Duration [us]",
    "Compute (SM) Throughput [%]",
    "Memory Throughput [%]",
    "Achieved Occupancy [%]",
    "Registers Per Thread [register/thread]",
)
Record = dict[str, Any]


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """One content of several files; a part that is in two of them is the one that was done, else the later one.

    Raises:
        ValueError: files of different machines or commits.
    """
    contents = [json.loads(path.read_text()) for path in paths]
    first = contents[0]
    for path, other in zip(paths, contents, strict=True):
        if (other["machine"]["commit"], other["machine"]["gpus"]) != (
            first["machine"]["commit"],
            first["machine"]["gpus"],
        ):
            raise ValueError(f"{path} is of another machine or commit than {paths[0]}")
        for name, outcome in other["parts"].items():
            if first["parts"].get(name, {}).get("status") != "done":
                first["parts"][name] = outcome
    return first


def draw(content: dict[str, Any]) -> str:
    """All tables that the records give, and what was not measured, with the reason."""
    sections = [heading(content), ceilings(content)]
    for kind in ("operator", "against compile"):
        for which in ("forward", "forward-backward"):
            sections.append(operator(content, kind, which))
    sections += [block(content), denoising(content), host(content), profile(content), tests(content), outcomes(content)]
    return "\n\n".join(section for section in sections if section) + "\n"


def heading(content: dict[str, Any]) -> str:
    machine = content["machine"]
    gpu = machine["gpus"][0]["name"] if machine["gpus"] else "no GPU"
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "triton", "python"))
    return (
        f"{gpu} ({content['cuda']['gpu'] or 'driver unknown'}), {versions}, commit {machine['commit']}, "
        f"{content['started'][:10]}. Medians in microseconds unless said otherwise; *cold*: the L2 cache emptied "
        "before every run; *graph*: a CUDA graph replayed, warm."
    )


def ceilings(content: dict[str, Any]) -> str:
    lines = []
    for record in records(content, "ceilings"):
        if "bytes_per_second" in record:
            lines.append([record["ceiling"], f"{record['bytes_per_second'] / 1e12:.2f} TB/s"])
        else:
            lines.append([record["ceiling"], f"{record['flops_per_second'] / 1e12:.0f} TFLOP/s"])
    return table("What this GPU reaches", ["", "measured"], lines)


def operator(content: dict[str, Any], kind: str, which: str) -> str:
    found = [r for r in every_record(content) if r.get("kind") == kind and r["pass"] == which]
    columns = list(dict.fromkeys(name for record in found for name in record["times"]))
    peers = [name for name in columns if name not in OURS]
    lines = []
    for record in found:
        times = record["times"]
        best = min((times[name]["cold"] for name in OURS if name in times), default=None)
        cells = [record["shape"], record["dtype"], *(both(times.get(name)) for name in columns)]
        cells.append(f"{record['flops'] / best / 1e6:.1f}" if best and which == "forward" else "-")
        cells += [f"{times[peer]['cold'] / best:.1f}×" if best and peer in times else "-" for peer in peers]
        lines.append(cells)
    header = [
        "shape",
        "dtype",
        *(f"{name}, cold / graph" for name in columns),
        "TFLOP/s",
        *(f"over {p}" for p in peers),
    ]
    return table(f"{kind.capitalize()}, {which}", header, lines)


def block(content: dict[str, Any]) -> str:
    lines = []
    for record in every_record(content):
        if record.get("kind") != "block":
            continue
        times, peaks = record["times"], record["peak_bytes"]
        ratio = times["attention"]["cold"] / times["blocks"]["cold"]
        memory = [f"{peaks[side] / 1e6:.0f}" for side in ("blocks", "attention")]
        sides = [both(times.get(side)) for side in SIDES_OF_BLOCK]
        even = ", ".join(f"{how} {tokens}" for how, tokens in record["break_even_tokens"].items())
        lines.append([str(record["tokens"]), *sides, f"{ratio:.1f}×", *memory, even])
    header = ["tokens", *(f"{SIDES_OF_BLOCK[side]}, cold / graph" for side in SIDES_OF_BLOCK), "SDPA over block"]
    header += ["block, MB", "SDPA, MB", "break-even so far, tokens"]
    return table("A block against self-attention, bfloat16", header, lines)


def denoising(content: dict[str, Any]) -> str:
    lines = []
    for record in every_record(content):
        if record.get("kind") != "denoising":
            continue
        seconds, peaks, ratio = record["seconds"], record["peak_bytes"], record["ratio_to_attention"]
        sides = ("blocks", "attention")
        lines.append(
            [
                record["model"],
                str(record["pixels"]),
                *(f"{1e3 * seconds[side]:.1f}" if side in seconds else "-" for side in sides),
                f"{ratio:.2f}×" if ratio else "-",
                *(f"{peaks[side] / 1e9:.2f}" if peaks.get(side) else "-" for side in sides),
                f"{record['planned_bytes'] / 1e9:.2f}",
                record["break_even_pixels"],
            ]
        )
    header = ["model", "pixels", "blocks, ms", "attention, ms", "attention over blocks"]
    header += ["blocks, GB", "attention, GB", "planned, GB", "break-even so far, pixels"]
    return table("One denoising step, batch 1", header, lines)


def host(content: dict[str, Any]) -> str:
    found = [record for record in every_record(content) if record.get("kind") == "host"]
    lines = [[r["backend"], *(f"{r['microseconds'][w]:.1f}" for w in ("forward", "forward-backward"))] for r in found]
    return table("What a call costs the host", ["backend", "forward", "forward and backward"], lines)


def profile(content: dict[str, Any]) -> str:
    lines = []
    for record in every_record(content):
        if "metrics" in record:
            kernel = record["kernel"].partition("(")[0].rpartition("::")[2]
            figures = [record["metrics"].get(metric, "-") for metric in PROFILED]
            lines.append([record["backend"], record["shape"], record["dtype"], kernel, *figures])
    return table("Kernels under Nsight Compute", ["backend", "shape", "dtype", "kernel", *PROFILED], lines)


def tests(content: dict[str, Any]) -> str:
    lines = []
    for name, outcome in content["parts"].items():
        for record in outcome["records"]:
            if "counts" in record:
                counts = record["counts"]
                lines.append([name, *(str(counts.get(which, 0)) for which in ("passed", "failed", "skipped"))])
    return table("Tests on this GPU", ["part", "passed", "failed", "skipped"], lines)


def outcomes(content: dict[str, Any]) -> str:
    lines = [
        [name, outcome["status"], str(outcome.get("seconds", "-")), outcome.get("reason", "").replace("|", "/")[:160]]
        for name, outcome in content["parts"].items()
    ]
    return table("Parts", ["part", "", "seconds", "reason"], lines)


def records(content: dict[str, Any], part: str) -> list[Record]:
    return content["parts"].get(part, {}).get("records", [])


def every_record(content: dict[str, Any]) -> Iterable[Record]:
    return (record for outcome in content["parts"].values() for record in outcome["records"])


def both(times: dict[str, float | None] | None) -> str:
    if times is None:
        return "-"
    return " / ".join("-" if times[how] is None else f"{times[how]:.1f}" for how in ("cold", "graph"))


def table(title: str, header: list[str], lines: list[list[str]]) -> str:
    """Markdown; nothing where there are no lines."""
    if not lines:
        return ""
    rule = ["---", *("---:" for _ in header[1:])]
    return f"**{title}**\n\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, metavar="PAGE")
    options = parser.parse_args()
    text = draw(read(options.files))
    if options.into is None:
        print(text, end="")
        return
    page = options.into.read_text()
    before, _, rest = page.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not end:
        parser.error(f"--into: {options.into} has no lines {MARKERS[0].strip()} and {MARKERS[1].strip()}")
    beside = options.into.with_suffix(".new")
    beside.write_text(before + MARKERS[0] + text + MARKERS[1] + after)
    beside.replace(options.into)


if __name__ == "__main__":
    main()
