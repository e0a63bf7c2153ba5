"""Distillation of self-attention into ΔConvBlocks: losses, data, trainer, checkpoints."""

from .cache import CachedOnDisk, write_cache
from .checkpoint import CheckpointError, find_checkpoint, save_checkpoint
from .config import DistillConfig
from .data import CachedExamples, CaptionedImages, DataError, EmojiImages, EncodedOnTheFly, HubImages, ImageFolder
from .encoding import PipelineEncoder
from .framing import Framer
from .losses import LossTerms, LossWeights, distillation_losses, feature_loss
from .parallel import make_accelerator
from .records import StepRecord
from .shards import ShardedImages
from .stream import Batch, ExampleStream
from .task import DenoisingTask
from .trainer import Distiller, TrainingDiverged

__all__ = [
    "Batch",
    "CachedExamples",
    "CachedOnDisk",
    "CaptionedImages",
    "CheckpointError",
    "DataError",
    "DenoisingTask",
    "DistillConfig",
    "Distiller",
    "EmojiImages",
    "EncodedOnTheFly",
    "ExampleStream",
    "Framer",
    "HubImages",
    "ImageFolder",
    "LossTerms",
    "LossWeights",
    "PipelineEncoder",
    "ShardedImages",
    "StepRecord",
    "TrainingDiverged",
    "distillation_losses",
    "feature_loss",
    "find_checkpoint",
    "make_accelerator",
    "save_checkpoint",
    "write_cache",
]
