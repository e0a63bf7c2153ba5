"""Pictures and captions as the teachers are trained on them."""

from __future__ import annotations

import numpy as np
import torch
from deltaconv_distill.embedded import EmojiDataset
from torch import Tensor
from transformers import CLIPTokenizer

EMPTY_CAPTION_RATE = 0.1
# Share of pictures that are trained with their kind ("fruit") for a caption. What a name leaves open, the parts of the
# picture must settle among themselves: that is what self-attention is needed for.
KIND_RATE = 0.5


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] to [-1, 1] [N, 3, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_uint8(images: Tensor) -> np.ndarray:
    """[-1, 1] [N, 3, H, W] to uint8 [N, H, W, 3]."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


class Captions:
    """Token ids of a data set's captions, drawn as they are trained on: empty, the picture's kind, or its name."""

    def __init__(self, data: EmojiDataset, tokenizer: CLIPTokenizer):
        self.count = len(data)
        texts = [*data.captions, *data.kinds, ""]
        self.ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def draw(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """[B, tokens] for the pictures of these indices, [B]."""
        lot = torch.rand(len(chosen), generator=generator)
        rows = chosen + self.count * (lot < EMPTY_CAPTION_RATE + KIND_RATE)
        return self.ids[torch.where(lot < EMPTY_CAPTION_RATE, 2 * self.count, rows)]
