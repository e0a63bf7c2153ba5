"""`deltaconv info`: versions, processor, GPU, and each backend with the reason where it cannot run.

With `--shape`, what the CUDA backend launches for that problem. With `--check`, whether every backend computes right.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from .errors import UserError
from .pipelines import DTYPES

PLAN_DEFAULTS = {"kernel_size": 9, "factors": "1,2", "dtype": "float32", "block": False, "gpu": None}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check",
        action="store_true",
        help="run every backend on its devices against float64, about a minute; exit with 1 where one is off",
    )
    plan = parser.add_argument_group("the CUDA backend's launch plan for a problem, instead")
    plan.add_argument("--shape", help="B,H,W,C of the operator's input, such as 2,64,64,320")
    plan.add_argument("--kernel_size", type=int, help="odd, 1 to 31")
    plan.add_argument("--factors", help="reduction factors of the stages, separated by commas")
    plan.add_argument("--dtype", choices=DTYPES, help="of the input and the weights")
    plan.add_argument("--block", action="store_true", help="of a whole block at inference; C is then the model's width")
    plan.add_argument("--gpu", help="a100, rtx4090, h100, h200, b200 or rtx5090 (default: this machine's, else h200)")
    parser.set_defaults(**PLAN_DEFAULTS)


def run(options: argparse.Namespace) -> None:
    _refuse_ignored(options)
    if options.check:
        from deltaconv_kernels.check import print_check

        if not print_check():
            raise SystemExit(1)
        return
    if options.shape:
        print(explain_plan(options), end="")
        return
    facts = gather()
    print(json.dumps(facts, indent=2) if options.json else format_facts(facts))


def _refuse_ignored(options: argparse.Namespace) -> None:
    """Flags that the answer would take no notice of."""
    asked = [name for name in ("json", "check", "shape") if getattr(options, name)]
    if len(asked) > 1:
        raise UserError(f"{', '.join(f'--{name}' for name in asked)}: expected one of them at most")
    given = [f"--{name}" for name, default in PLAN_DEFAULTS.items() if getattr(options, name) != default]
    if given and not options.shape:
        raise UserError(f"{', '.join(given)}: expected --shape with it")


def explain_plan(options: argparse.Namespace) -> str:
    import torch

    from deltaconv_kernels.cuda_plan import explain_block_plan, explain_cuda_plan, this_gpu

    explain = explain_block_plan if options.block else explain_cuda_plan
    try:
        return explain(
            _numbers_of(options, "shape"),
            options.kernel_size,
            _numbers_of(options, "factors"),
            getattr(torch, options.dtype),
            options.gpu or this_gpu() or "h200",
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error)) from error


def _numbers_of(options: argparse.Namespace, name: str) -> list[int]:
    try:
        return parse_numbers(getattr(options, name))
    except ValueError as error:
        raise UserError(f"--{name}: {error}") from error


def parse_numbers(text: str) -> list[int]:
    """ValueError where ``text`` is not numbers separated by commas."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"expected numbers separated by commas, got {text!r}") from None


def gather() -> dict[str, Any]:
    import deltaconv_kernels

    from ..machine import describe_machine

    status = {name: asdict(backend) for name, backend in deltaconv_kernels.backends().items()}
    return {**describe_machine(), "backends": status}


def format_facts(facts: dict[str, Any]) -> str:
    cpu = facts["cpu"]
    lines = [
        f"deltaconv-kernels  {facts['package'] or 'not installed'}"
        + (f", commit {facts['commit']}" if facts["commit"] else ""),
        *(f"{name:<18} {version or 'not installed'}" for name, version in facts["versions"].items()),
        f"{'CPU':<18} {cpu['name']}, {cpu['usable_cores']} of {cpu['logical_cores']} cores usable, "
        f"{cpu['torch_threads']} threads and {cpu['torch_capability']} in torch",
        f"{'CPU features':<18} {' '.join(cpu['features']) or 'none of note'}",
        *(
            f"{'GPU':<18} {gpu['name']}, sm {gpu['compute_capability']}, {gpu['memory_gib']} GiB"
            for gpu in facts["gpus"]
        ),
    ]
    if not facts["gpus"]:
        lines.append(f"{'GPU':<18} none that this torch can use")
    lines.append("backends")
    for name, status in facts["backends"].items():
        verdict = "can run" if status["available"] else "cannot run"
        lines.append(f"  {name:<16} {verdict}" + (f": {status['reason']}" if status["reason"] else ""))
    return "\n".join(lines)
