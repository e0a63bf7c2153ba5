"""Distillation of self-attention into ΔConvBlocks: losses, data, trainer, checkpoints."""

from .checkpoint import CheckpointError, find_checkpoint, save_checkpoint
from .config import DistillConfig
from .data import CachedExamples, DataError, EmojiImages, EncodedOnTheFly, ImageFolder
from .encoding import PipelineEncoder
from .losses import LossTerms, LossWeights, distillation_losses, feature_loss
from .records import StepRecord
from .stream import Batch, ExampleStream
from .task import DenoisingTask
from .trainer import Distiller, TrainingDiverged

__all__ = [
    "Batch",
    "CachedExamples",
    "CheckpointError",
    "DataError",
    "DenoisingTask",
    "DistillConfig",
    "Distiller",
    "EmojiImages",
    "EncodedOnTheFly",
    "ExampleStream",
    "ImageFolder",
    "LossTerms",
    "LossWeights",
    "PipelineEncoder",
    "StepRecord",
    "TrainingDiverged",
    "distillation_losses",
    "feature_loss",
    "find_checkpoint",
    "save_checkpoint",
]
