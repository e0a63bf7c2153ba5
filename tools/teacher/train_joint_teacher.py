#!/usr/bin/env python
"""Trains a teacher with joint attention, a Stable Diffusion 3 pipeline, by flow matching on the emoji, on a CPU.

    python tools/teacher/train_joint_teacher.py --work build/joint_teacher --minutes 40

The autoencoder and the tokenizer are the first teacher's; both text encoders and the transformer are trained, and go on
from their checkpoint in --work. Every --snapshot-minutes the averaged weights are written there as a pipeline directory
(`pipeline/`) with a grid of samples; the record of the run is `pipeline/TRAINING.json`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads yield their core at once

import teacher_models as models
import torch
from deltaconv_distill.embedded import load_emoji, load_teacher
from diffusers import AutoencoderKL
from diffusers.training_utils import compute_density_for_timestep_sampling
from teacher_data import Captions, to_tensor
from teacher_files import save_pipeline
from teacher_stage import Stage
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

DENSITY = {"weighting_scheme": "logit_normal", "logit_mean": 0.0, "logit_std": 1.0}


def make_vae() -> AutoencoderKL:
    """The first teacher's, whose latents have mean 0 and deviation 1; this pipeline asks for a shift by name."""
    vae = load_teacher().vae.requires_grad_(False).eval()
    vae.register_to_config(shift_factor=0.0)
    return vae


def train(args: argparse.Namespace) -> None:
    data, vae = load_emoji(pictorial_only=True), make_vae()
    tokenizer = load_teacher().tokenizer
    torch.manual_seed(args.seed)
    encoders = nn.ModuleList(models.make_joint_text_encoder(tokenizer) for _ in range(2))
    denoiser = nn.ModuleDict({"transformer": models.make_transformer(), "text_encoders": encoders})
    stage = Stage(
        args.work / "denoiser.pt", denoiser, peak=args.lr, minutes=args.minutes, threads=args.threads, seed=args.seed
    )
    captions = Captions(data, tokenizer)
    with torch.no_grad():
        posterior = vae.encode(to_tensor(data.images)).latent_dist

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(data), (args.batch,), generator=generator)
        noise = torch.randn(args.batch, *posterior.mean.shape[1:], generator=generator)
        sigma = compute_density_for_timestep_sampling(batch_size=args.batch, generator=generator, **DENSITY)
        ids = captions.draw(chosen, generator)
        latents = posterior.mean[chosen] + posterior.std[chosen] * torch.randn(noise.shape, generator=generator)
        weight = sigma[:, None, None, None]
        # On CPUs the fused attention's backward pass is slower than plain matrix products at these sizes.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            text, pooled = models.encode_joint_text(encoders, ids)
            velocity = denoiser["transformer"](
                (1 - weight) * latents + weight * noise,
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=1000 * sigma,
            ).sample
        return (velocity.float() - (noise - latents)).square().mean()

    def on_snapshot() -> None:
        with stage.averaged():
            pipeline = models.make_joint_pipeline(vae, list(encoders), tokenizer, denoiser["transformer"])
            record = {
                "images": len(data),
                "batch": args.batch,
                "learning_rate": args.lr,
                "timesteps": DENSITY,
                "seed": args.seed,
            }
            save_pipeline(pipeline, args.work, stage, record, guidance=3.0)
        denoiser.train()

    stage.run(loss_of_batch, on_snapshot, args.snapshot_minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, snapshots and the result")
    parser.add_argument("--minutes", type=float, default=40, help="wall time of the training")
    parser.add_argument("--snapshot-minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train(args)


if __name__ == "__main__":
    main()
