"""A small teacher, fusion and data set that the tests of distillation share."""

from __future__ import annotations

import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.distillation import CachedExamples, CaptionedImages, DistillConfig, Distiller, PipelineEncoder
from diffusers import DiffusionPipeline
from tiny_pipelines import tiny_sd

CAPTIONS = ("red cat", "sun", "tree", "cup", "blue cat")


class RandomImages(CaptionedImages):
    """Five captioned images of 16 x 16 random pixels."""

    captions = CAPTIONS

    def image(self, index: int) -> torch.Tensor:
        return torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))


def make_distiller(pipe: DiffusionPipeline | None = None, examples=None, accelerator=None, **settings) -> Distiller:
    """A distiller of fresh blocks (K = 3, the same each time) on `RandomImages`, with batches of two."""
    pipe = pipe or tiny_sd()
    torch.manual_seed(1)
    fusion = DeltaConvFusion.convert(pipe, kernel_size=3)
    examples = examples or CachedExamples(RandomImages(), PipelineEncoder(pipe))
    config = DistillConfig(**{"train_batch_size": 2, "max_train_steps": 6, "lr_warmup_steps": 2, **settings})
    return Distiller(pipe, fusion, examples, config, accelerator)
