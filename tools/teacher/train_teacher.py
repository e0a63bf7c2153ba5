#!/usr/bin/env python
"""Trains the embedded teacher (autoencoder, then text encoder and UNet) on the emoji data set, on a CPU.

    python tools/teacher/train_teacher.py --work build/teacher --minutes 90

Both stages resume from their checkpoint in --work. Every --snapshot-minutes the averaged weights are written there as a
pipeline directory (`pipeline/`) with a grid of samples; the record of the run is `pipeline/TRAINING.json`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads yield their core at once

import teacher_models as models
import torch
import torch.nn.functional as F
from deltaconv_distill.embedded import load_emoji
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import compute_snr
from teacher_data import Captions, to_tensor, to_uint8
from teacher_files import save_grid, save_pipeline
from teacher_stage import Stage
from torch import Tensor, nn

KL_WEIGHT = 1e-4
LARGEST_WEIGHT = 8.0


def train_vae(args: argparse.Namespace) -> tuple[AutoencoderKL, Stage]:
    images = to_tensor(load_emoji().images)
    torch.manual_seed(args.seed)
    vae = models.make_vae()
    stage = Stage(args.work / "vae.pt", vae, peak=2e-3, minutes=args.vae_minutes, threads=args.threads, seed=args.seed)

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        batch = images[torch.randint(len(images), (16,), generator=generator)]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            reconstruction = vae.decode(posterior.sample(generator)).sample.float()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return F.l1_loss(reconstruction, batch) + F.mse_loss(reconstruction, batch) + KL_WEIGHT * kl

    def on_snapshot() -> None:
        with stage.averaged(), torch.no_grad():
            shown = images[400:1400:32]
            decoded = vae.decode(vae.encode(shown).latent_dist.mean).sample
        both = torch.stack([shown, decoded], 1).flatten(0, 1)
        save_grid(to_uint8(both), args.work / "vae.png")

    stage.run(loss_of_batch, on_snapshot, args.snapshot_minutes)
    stage.ema.copy_to(vae.parameters())
    vae.requires_grad_(False).eval()
    standardise_latents(vae, images)
    return vae, stage


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Gives every latent channel mean 0 and deviation 1, by an affine map folded into the 1x1 convolutions around it.

    A Stable Diffusion pipeline knows a scaling factor only, but the mean matters too: most of every picture is white.
    """
    latents = vae.encode(images).latent_dist.mean
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    n = len(mean)
    vae.quant_conv.weight[:n].div_(std[:, None, None, None])
    vae.quant_conv.bias[:n].sub_(mean).div_(std)
    vae.quant_conv.bias[n:].sub_(2 * std.log())  # log-variances
    post = vae.post_quant_conv
    post.bias.add_((post.weight * mean[None, :, None, None]).sum((1, 2, 3)))
    post.weight.mul_(std[None, :, None, None])


def train_denoiser(args: argparse.Namespace, vae: AutoencoderKL, vae_stage: Stage) -> None:
    data, all_captions = load_emoji(pictorial_only=True), load_emoji().captions
    tokenizer = models.make_tokenizer(all_captions)
    torch.manual_seed(args.seed)
    denoiser = nn.ModuleDict({"unet": models.make_unet(), "text_encoder": models.make_text_encoder(tokenizer)})
    stage = Stage(
        args.work / "denoiser.pt",
        denoiser,
        peak=args.lr,
        minutes=args.minutes,
        threads=args.threads,
        seed=args.seed,
    )
    # On CPUs the fused attention's backward pass is slower than plain matrix products at these sizes.
    denoiser["unet"].set_attn_processor(AttnProcessor())
    schedule = models.make_noise_scheduler()
    captions = Captions(data, tokenizer)
    with torch.no_grad():
        posterior = vae.encode(to_tensor(data.images)).latent_dist

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(data), (args.batch,), generator=generator)
        noise = torch.randn(args.batch, *posterior.mean.shape[1:], generator=generator)
        t = torch.randint(schedule.config.num_train_timesteps, (args.batch,), generator=generator)
        ids = captions.draw(chosen, generator)
        latents = posterior.mean[chosen] + posterior.std[chosen] * torch.randn(noise.shape, generator=generator)
        noisy = schedule.add_noise(latents, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            text = denoiser["text_encoder"](ids)[0]
            predicted = denoiser["unet"](noisy, t, text).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        # The error grows with the signal-to-noise ratio; this weight makes all times count about alike, so that
        # the noisy ones, where the caption decides what the picture will be, are not lost beside the clear ones.
        weight = compute_snr(schedule, t).rsqrt().clamp(max=LARGEST_WEIGHT)
        return (weight * error).mean()

    def on_snapshot() -> None:
        with stage.averaged():
            pipeline = models.make_pipeline(vae, denoiser["text_encoder"], tokenizer, denoiser["unet"])
            record = {
                "images": len(data),
                "batch": args.batch,
                "learning_rate": args.lr,
                "loss_weight": f"1 / sqrt(signal-to-noise ratio), at most {LARGEST_WEIGHT}",
                "seed": args.seed,
                "autoencoder": {
                    "steps": vae_stage.step,
                    "seconds": round(vae_stage.seconds),
                    "loss": vae_stage.history,
                },
            }
            save_pipeline(pipeline, args.work, stage, record, guidance=4.0)
        denoiser.train()

    stage.run(loss_of_batch, on_snapshot, args.snapshot_minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, snapshots and the result")
    parser.add_argument("--minutes", type=float, default=90, help="wall time for the denoiser")
    parser.add_argument("--vae-minutes", type=float, default=8)
    parser.add_argument("--snapshot-minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    train_denoiser(args, *train_vae(args))


if __name__ == "__main__":
    main()
