"""Distillation of self-attention into ΔConvBlocks: losses, data, trainer, checkpoints."""

from .config import DistillConfig
from .data.batches import Batch
from .data.cache import CachedOnDisk, write_cache
from .data.encoding import PipelineEncoder
from .data.errors import BadPicture, BadPictures, DataError
from .data.example_stream import ExampleStream
from .data.examples import CachedExamples, EncodedOnTheFly
from .data.framing import Framer
from .data.hub_images import HubImages
from .data.images import CaptionedImages, EmojiImages, ImageFolder
from .data.shards import ShardedImages
from .run.checkpoint import CheckpointError, find_checkpoint, save_checkpoint
from .run.interruption import TrainingInterrupted
from .run.parallel import make_accelerator
from .run.records import StepRecord
from .run.run_folder import RunFolderError
from .task import DenoisingTask
from .training.losses import LossTerms, LossWeights, distillation_losses, feature_loss
from .training.trainer import Distiller, TrainingDiverged

__all__ = [
    "BadPicture",
    "BadPictures",
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
    "RunFolderError",
    "ShardedImages",
    "StepRecord",
    "TrainingDiverged",
    "TrainingInterrupted",
    "distillation_losses",
    "feature_loss",
    "find_checkpoint",
    "make_accelerator",
    "save_checkpoint",
    "write_cache",
]
