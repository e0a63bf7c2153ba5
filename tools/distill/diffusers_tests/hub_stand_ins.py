"""The tiny text models that diffusers' tests take from the hub, made here instead: no download, no network.

hf-internal-testing/tiny-random-clip     a tokenizer of letters
hf-internal-testing/tiny-random-t5     a tokenizer of letters, and an encoder with random weights
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

CLIP = "hf-internal-testing/tiny-random-clip"
T5 = "hf-internal-testing/tiny-random-t5"
CLIP_WITH_ENCODER = "peft-internal-testing/tiny-clip-text-2"

LOADERS = (
    *("CLIPTokenizer", "T5Tokenizer", "T5TokenizerFast", "AutoTokenizer", "AutoConfig"),
    *("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"),
)


def install(folder: Path) -> None:
    """Write the models into `folder`, and let transformers' loaders find them there by their names on the hub."""
    _t5_tokenizer().save_pretrained(folder / T5)
    for name in (CLIP, CLIP_WITH_ENCODER):
        _clip_tokenizer().save_pretrained(folder / name)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        _t5_encoder().save_pretrained(folder / T5)
        _clip_encoder().save_pretrained(folder / CLIP_WITH_ENCODER)
    for name in LOADERS:
        loader = getattr(transformers, name)
        loader.from_pretrained = _redirected(loader.from_pretrained, folder)


def _redirected(load: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    @functools.wraps(load)
    def redirected(name: Any, *arguments: Any, **options: Any) -> Any:
        return load(folder / name if name in (CLIP, T5, CLIP_WITH_ENCODER) else name, *arguments, **options)

    return redirected


def _clip_tokenizer() -> CLIPTokenizer:
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*characters, *(f"{character}</w>" for character in characters)]
    pieces = ["<|startoftext|>", "<pad>", "<|endoftext|>", *pieces]  # the tests' text encoders end a prompt at token 2
    return CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def _t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase, *string.digits]
    return T5Tokenizer(vocab=[(piece, -float(index)) for index, piece in enumerate(pieces)])


def _t5_encoder() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=1103, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0)
    )


def _clip_encoder() -> CLIPTextModelWithProjection:
    sizes = {"hidden_size": 32, "intermediate_size": 37, "projection_dim": 32, "vocab_size": 1000}
    config = CLIPTextConfig(
        num_hidden_layers=5, num_attention_heads=4, bos_token_id=0, pad_token_id=1, eos_token_id=2, **sizes
    )
    return CLIPTextModelWithProjection(config)
