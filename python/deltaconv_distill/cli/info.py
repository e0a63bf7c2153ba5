"""`deltaconv info`: versions, processor, GPU, and each backend with the reason where it cannot run."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    facts = gather()
    print(json.dumps(facts, indent=2) if options.json else format_facts(facts))


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
        lines.append(f"  {name:<16} {'can run' if status['available'] else 'cannot run: ' + str(status['reason'])}")
    return "\n".join(lines)
