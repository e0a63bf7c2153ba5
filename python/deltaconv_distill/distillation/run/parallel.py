"""One process or many: Accelerate's wrapping of the denoiser, and tensors that FSDP has spread over processes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor, distribute_tensor

from ..config import ALL_TRACKERS, TRACKERS, DistillConfig

LOGS_FOLDER = "logs"  # of the trackers, in output_dir

Losses = dict[str, torch.Tensor]


def make_accelerator(config: DistillConfig, cpu: bool = False) -> Accelerator:
    """Accelerate as the launcher configured it, but for precision and accumulation, which are the trainer's.

    Args:
        cpu: stay on the CPU, also on a machine with a GPU.

    Raises:
        ValueError: the tracker is not installed, or the launcher was told to accumulate gradients.
    """
    logs = f"{config.output_dir}/{LOGS_FOLDER}" if config.report_to else None
    accelerator = Accelerator(
        cpu=cpu, mixed_precision="no", log_with=_trackers(config.report_to) or None, project_dir=logs
    )
    if config.report_to and not accelerator.log_with:
        raise ValueError(f"report_to: {', '.join(_trackers(config.report_to))} is not installed")
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            "gradient_accumulation_steps: expected to be given to the trainer, not to accelerate launch or its config"
        )
    return accelerator


def _trackers(report_to: str | None) -> list[str]:
    """Those that are asked for; accelerate leaves out what is not installed."""
    if report_to is None:
        return []
    return list(TRACKERS) if report_to == ALL_TRACKERS else [report_to]


def refuse_unfit_settings(accelerator: Accelerator, config: DistillConfig) -> None:
    """Raises ValueError for settings that the way of launching cannot honour."""
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and (config.stage1_steps or config.fit_batches):
        raise ValueError("stage1_steps, fit_batches: expected 0 under FSDP, which spreads the blocks' weights")
    if kind == DistributedType.FSDP and config.mixed_precision == "fp16":
        raise ValueError("mixed_precision: expected bf16 or no under FSDP, got 'fp16'")
    if kind == DistributedType.DEEPSPEED and config.resume_from_checkpoint:
        raise ValueError("resume_from_checkpoint: DeepSpeed's optimizer state is not in the checkpoints")


class LossModule(torch.nn.Module):
    """A denoiser and what is computed with it as one module, so that DDP sees one forward for each backward."""

    def __init__(self, denoiser: torch.nn.Module, compute: Callable[..., Losses]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._compute = compute

    def forward(self, *args: Any) -> Losses:
        return self._compute(*args)


@dataclass(frozen=True)
class Prepared:
    """loss_module: to be called; synchronised: whose gradients the processes exchange; optimizer: of these."""

    loss_module: torch.nn.Module
    synchronised: torch.nn.Module
    optimizer: Any


def prepare(accelerator: Accelerator, loss_module: LossModule, optimizer: torch.optim.Optimizer) -> Prepared:
    """Wrap for the way in which the processes were launched.

    FSDP gathers weights when the module that it wraps is called: that is the denoiser, once for each pass.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise ValueError("fsdp_version: expected 2 (frozen and trained weights share modules), got 1")
        denoiser, wrapped = accelerator.prepare(loss_module.denoiser, optimizer)
        return Prepared(loss_module, denoiser, wrapped)
    module, wrapped = accelerator.prepare(loss_module, optimizer)
    return Prepared(module, module, wrapped)


def agreed(accelerator: Accelerator, time_is_up: bool, stopped: int) -> tuple[bool, int]:
    """What all processes go by: the main one's clock, and a signal that any of them has been sent."""
    if accelerator.num_processes == 1:
        return time_is_up, stopped
    mine = [[int(time_is_up and accelerator.is_main_process), stopped]]
    time_is_up, stopped = accelerator.gather(torch.tensor(mine, device=accelerator.device)).amax(0).tolist()
    return bool(time_is_up), stopped


def gathered(tree: Any) -> Any:
    """`tree` of dicts and lists with whole tensors in place of spread ones; all processes have to call it."""
    if isinstance(tree, dict):
        return {name: gathered(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(gathered(value) for value in tree)
    return tree.full_tensor() if isinstance(tree, DTensor) else tree


def spread_like(value: Any, parameter: torch.Tensor) -> Any:
    """`value`, a whole tensor of a parameter's shape, spread as the parameter is."""
    if isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def spread_optimizer_state(state: dict[str, Any], parameters: list[torch.nn.Parameter]) -> dict[str, Any]:
    """An optimizer's gathered state dict for parameters that may be spread."""
    moments = {
        index: {name: spread_like(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": moments}


def random_state() -> dict[str, Any]:
    """The generators of this process, in types that a checkpoint may hold."""
    version, keys, *numpy_rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(version), torch.from_numpy(np.asarray(keys).astype(np.int64)), *map(float, numpy_rest)],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Counterpart of `random_state`."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((version, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))  # noqa: NPY002
    random.setstate(state["python"])
