#!/usr/bin/env python
"""Trains the embedded teacher (autoencoder, then text encoder and UNet) on the emoji data set, on a CPU.

    python tools/teacher/train_teacher.py --work build/teacher --minutes 90

Both stages resume from their checkpoint in --work. Every --snapshot-minutes the averaged weights are written there as a
pipeline directory (`pipeline/`) with a grid of samples; the record of the run is `pipeline/TRAINING.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads yield their core at once

import numpy as np
import teacher_models as models
import torch
import torch.nn.functional as F
from deltaconv_distill.embedded import load_emoji
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import compute_snr
from PIL import Image
from safetensors.torch import load_file, save_file
from teacher_stage import Stage
from torch import Tensor, nn

EMPTY_CAPTION_RATE = 0.1
# Share of pictures that are trained with their kind ("fruit") for a caption. What a name leaves open, the parts of the
# picture must settle among themselves: that is what self-attention is needed for.
KIND_RATE = 0.5
KL_WEIGHT = 1e-4
LARGEST_WEIGHT = 8.0
PREVIEW = (
    "animal face", "animal face", "fruit", "fruit", "face", "heart", "vehicle", "vehicle",
    "flower", "bird", "animal", "food", "dessert", "strawberry", "penguin", "tiger face",
)  # fmt: skip


def replace_folder(new: Path, old: Path) -> None:
    """Puts `new` where `old` is; readers see a whole folder except for the instant between two renames."""
    retired = old.with_name(old.name + ".retired")
    shutil.rmtree(retired, ignore_errors=True)
    if old.exists():
        old.rename(retired)
    new.rename(old)
    shutil.rmtree(retired, ignore_errors=True)


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] to [-1, 1] [N, 3, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_uint8(images: Tensor) -> np.ndarray:
    """[-1, 1] [N, 3, H, W] to uint8 [N, H, W, 3]."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def save_grid(images: np.ndarray, path: Path, columns: int = 8, zoom: int = 3) -> None:
    """images: uint8 [N, H, W, 3]."""
    n, h, w, _ = images.shape
    sheet = Image.new("RGB", (columns * w, -(-n // columns) * h), "white")
    for i, image in enumerate(images):
        sheet.paste(Image.fromarray(image), (i % columns * w, i // columns * h))
    sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST).save(path)


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
    texts = [*data.captions, *data.kinds, ""]  # in the order that loss_of_batch counts on
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        posterior = vae.encode(to_tensor(data.images)).latent_dist

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(data), (args.batch,), generator=generator)
        noise = torch.randn(args.batch, *posterior.mean.shape[1:], generator=generator)
        t = torch.randint(schedule.config.num_train_timesteps, (args.batch,), generator=generator)
        lot = torch.rand(args.batch, generator=generator)
        captions = chosen + len(data) * (lot < EMPTY_CAPTION_RATE + KIND_RATE)
        captions = ids[torch.where(lot < EMPTY_CAPTION_RATE, 2 * len(data), captions)]
        latents = posterior.mean[chosen] + posterior.std[chosen] * torch.randn(noise.shape, generator=generator)
        noisy = schedule.add_noise(latents, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            text = denoiser["text_encoder"](captions)[0]
            predicted = denoiser["unet"](noisy, t, text).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        # The error grows with the signal-to-noise ratio; this weight makes all times count about alike, so that
        # the noisy ones, where the caption decides what the picture will be, are not lost beside the clear ones.
        weight = compute_snr(schedule, t).rsqrt().clamp(max=LARGEST_WEIGHT)
        return (weight * error).mean()

    def on_snapshot() -> None:
        with stage.averaged():
            pipeline = models.make_pipeline(vae, denoiser["text_encoder"], tokenizer, denoiser["unet"])
            save_pipeline(pipeline, args, vae_stage, stage, len(data))
        denoiser.train()

    stage.run(loss_of_batch, on_snapshot, args.snapshot_minutes)


def save_pipeline(
    pipeline: StableDiffusionPipeline, args: argparse.Namespace, vae_stage: Stage, stage: Stage, images: int
) -> None:
    """Writes the pipeline (float16), its record and a grid of samples."""
    new = args.work / "pipeline.new"
    shutil.rmtree(new, ignore_errors=True)
    pipeline.save_pretrained(new)
    for weights in new.rglob("*.safetensors"):
        halve(weights)
    record = {
        "images": images,
        "batch": args.batch,
        "learning_rate": args.lr,
        "loss_weight": f"1 / sqrt(signal-to-noise ratio), at most {LARGEST_WEIGHT}",
        "empty_captions": EMPTY_CAPTION_RATE,
        "kind_captions": KIND_RATE,
        "seed": args.seed,
        "parameters": {
            k: sum(p.numel() for p in getattr(pipeline, k).parameters()) for k in ("unet", "text_encoder", "vae")
        },
        "machine": f"{cpu_name()}, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
        "autoencoder": {
            "steps": vae_stage.step,
            "seconds": round(vae_stage.seconds),
            "loss": vae_stage.history,
        },
        "denoiser": {"steps": stage.step, "seconds": round(stage.seconds), "loss": stage.history},
    }
    (new / "TRAINING.json").write_text(json.dumps(record, indent=1) + "\n")
    replace_folder(new, args.work / "pipeline")

    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(len(PREVIEW))]
    out = pipeline(
        list(PREVIEW), num_inference_steps=20, guidance_scale=4.0, generator=generators, output_type="np"
    ).images
    save_grid((out * 255).round().astype(np.uint8), args.work / f"samples-{stage.step:06d}.png")


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def halve(path: Path) -> None:
    """Rewrites a safetensors file in float16 (half the size; loading upcasts)."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})


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
