"""Draws docs/images/high_resolution.png: the embedded teacher beyond its size, in one stage and in two."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from deltaconv_distill.embedded import load_teacher
from deltaconv_distill.embedded.teacher import GUIDANCE_SCALE, STEPS
from deltaconv_distill.generation import generate_high_resolution, plan_generation
from PIL.Image import Image

PROMPTS = ["fruit", "rocket", "strawberry", "sunflower", "penguin", "animal face"]
SMALL, LARGE = 32, 64
STRENGTH = 0.25
TARGET = Path(__file__).parents[2] / "docs" / "images" / "high_resolution.png"


def main() -> None:
    pipe = load_teacher()
    pipe.set_progress_bar_config(disable=True)

    def generate(size: int, base: int) -> list[Image]:
        plan = plan_generation(pipe, size, size, base=(base, base), batch_guidance=True)
        return generate_high_resolution(
            pipe,
            PROMPTS,
            size,
            size,
            strength=STRENGTH,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))],
            plan=plan,
        )

    rows = {
        f"{SMALL} pixels": generate(SMALL, base=SMALL),
        f"{LARGE}, one stage": generate(LARGE, base=LARGE),
        f"{LARGE}, two stages": generate(LARGE, base=SMALL),
    }
    figure, panels = plt.subplots(len(rows), len(PROMPTS), figsize=(9, 4.7), layout="constrained")
    for line, (label, images) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(label)
        for panel, image in zip(line, images, strict=True):
            panel.imshow(image, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
    for panel, prompt in zip(panels[0], PROMPTS, strict=True):
        panel.set_title(prompt, fontsize=10)
    figure.savefig(TARGET, dpi=90)


if __name__ == "__main__":
    main()
