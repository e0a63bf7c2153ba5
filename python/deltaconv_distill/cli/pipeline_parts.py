"""Parts of a pipeline that flags replace or add: the scheduler, a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ADAPTER = "lora"  # its name in the pipeline


def replace_scheduler(pipe: DiffusionPipeline, name: str) -> None:
    """Give the pipeline diffusers' scheduler of this name, configured as its own one.

    Raises:
        UserError: there is none of this name, or none that fits the pipeline.
    """
    import diffusers
    from diffusers import SchedulerMixin

    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        fitting = sorted(other.__name__ for other in pipe.scheduler.compatibles)
        raise UserError(f"--scheduler: expected one of {', '.join(fitting)}, got {name!r}")
    pipe.scheduler = cast(Any, kind).from_config(pipe.scheduler.config)


def load_lora(pipe: DiffusionPipeline, path: str, scale: float) -> None:
    """Load a LoRA from a folder or a file and let it act `scale` times as strongly as it was trained.

    Raises:
        UserError: nothing there, or nothing for this pipeline.
    """
    file = Path(path)
    if not file.exists():
        raise UserError(f"--lora: expected a folder or a file, got {path!r}")
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"--lora: diffusers loads none into a {type(pipe).__name__}")
    where = {"weight_name": file.name} if file.is_file() else {}
    try:
        pipe.load_lora_weights(str(file.parent if file.is_file() else file), adapter_name=ADAPTER, **where)
        pipe.set_adapters([ADAPTER], adapter_weights=[scale])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"--lora: {path!r} cannot be used with this model ({error})") from error
