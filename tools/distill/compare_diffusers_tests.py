"""diffusers' own fast tests with every denoiser converted: how many pass still, and what those say that do not.

    git clone --depth 1 --branch v0.42.1 https://github.com/huggingface/diffusers
    python tools/distill/compare_diffusers_tests.py diffusers [--tests tests/pipelines/pag …] [--outcomes FOLDER]

needs pytest, pytest-timeout, parameterized and requests-mock. The checkout should be of the installed release: tests
that fail unconverted as well are set aside. Nothing is downloaded; tests that need a model from the hub fail so.

Every UNet2DConditionModel, ControlNetModel and PixArtTransformer2DModel that a test makes or loads gets blocks of
K = 3 that start from its attentions; only tests in which that happened count. Those that fail run again unconverted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers_tests import CONVERT, OUTCOMES

TESTS = (
    "tests/models/unets/test_models_unet_2d_condition.py",
    "tests/models/unets/test_models_unet_motion.py",
    "tests/models/unets/test_models_unet_controlnetxs.py",
    "tests/models/transformers/test_models_pixart_transformer2d.py",
    *(f"tests/pipelines/{name}" for name in ("stable_diffusion", "stable_diffusion_2", "stable_diffusion_xl")),
    *(f"tests/pipelines/{name}" for name in ("pixart_alpha", "pixart_sigma", "controlnet", "animatediff", "pag")),
    *(f"tests/pipelines/{name}" for name in ("latent_consistency_models", "stable_diffusion_adapter")),
    "tests/lora/test_lora_layers_sd.py",
    "tests/lora/test_lora_layers_sdxl.py",
)

Results = dict[str, dict[str, Any]]  # by test: outcome, reason, and how many denoisers were converted during it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="the folder of diffusers' repository")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files, folders or test ids in it")
    parser.add_argument("--outcomes", type=Path, default=Path("diffusers_tests"), help="a folder for JSON and logs")
    options = parser.parse_args()
    options.outcomes.mkdir(parents=True, exist_ok=True)
    converted = run(options, "converted", options.tests)
    failed = [test for test, result in converted.items() if counts(result) and result["outcome"] == "failed"]
    plain = run(options, "unconverted", failed) if failed else {}
    print(report(converted, plain))


def run(options: argparse.Namespace, name: str, tests: Sequence[str]) -> Results:
    """The outcomes of diffusers' tests, in a process of its own."""
    outcomes = (options.outcomes / f"{name}.json").absolute()
    outcomes.unlink(missing_ok=True)
    listed = outcomes.with_suffix(".txt")  # thousands of ids are too long for a command line
    listed.write_text("\n".join(tests), encoding="utf-8")
    tools = Path(__file__).resolve().parent
    environment = {
        **os.environ,
        OUTCOMES: str(outcomes),
        CONVERT: str(int(name == "converted")),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(tools), *sys.path]),
    }
    command = [sys.executable, "-m", "pytest", "-p", "diffusers_tests.plugin", "-p", "no:cacheprovider", "-q"]
    command += ["--timeout", "300", "--tb=line", "-W", "ignore", f"@{listed}"]
    with open(outcomes.with_suffix(".log"), "w", encoding="utf-8") as log:
        subprocess.run(command, cwd=options.checkout, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if not outcomes.is_file():
        raise SystemExit(f"no test ran: see {log.name}")
    return json.loads(outcomes.read_text(encoding="utf-8"))


def counts(result: dict[str, Any]) -> bool:
    return result["converted"] > 0 and result["outcome"] != "skipped"


def report(converted: Results, plain: Results) -> str:
    """Markdown: the counts, and a line for every test that fails only converted."""
    taken = {test: result for test, result in converted.items() if counts(result)}
    aside = [test for test in taken if plain.get(test, {}).get("outcome") == "failed"]
    differing = [test for test, result in taken.items() if result["outcome"] == "failed" and test not in aside]
    passed = len(taken) - len(aside) - len(differing)
    lines = [
        f"{len(taken)} tests converted a denoiser; {len(aside)} of them fail unconverted too and are set aside.",
        f"Of the {passed + len(differing)} others {passed} pass.",
        "",
        "| test | what it says |",
        "| --- | --- |",
    ]
    for test in differing:
        reason = " ".join(taken[test]["reason"].split())[:120].replace("|", "\\|")
        lines.append(f"| {test.removeprefix('tests/')} | {reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
