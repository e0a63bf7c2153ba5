"""The optimizer, the learning rate's schedule and the moving average that the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from ..config import DistillConfig

Parameters = list[torch.nn.Parameter]


def make_optimizer(parameters: Parameters, config: DistillConfig) -> torch.optim.Optimizer:
    """AdamW, with 8-bit moments on request.

    Raises:
        ValueError: bitsandbytes is not installed or does not work here.
    """
    return _adamw_class(config.use_8bit_adam)(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )


def make_lr_scheduler(optimizer: torch.optim.Optimizer, config: DistillConfig) -> Any:
    """diffusers' schedule of that name."""
    return get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )


def _adamw_class(eight_bit: bool) -> Any:
    if not eight_bit:
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"use_8bit_adam: needs bitsandbytes: pip install bitsandbytes ({error})") from error
    return AdamW8bit


class MovingAverage(EMAModel):
    """diffusers' moving average, on the CPU between steps where `offload` is set."""

    def __init__(self, parameters: Parameters, decay: float, offload: bool) -> None:
        super().__init__(parameters, decay=decay)
        self.offload = offload
        self.device = parameters[0].device
        self._rest()

    def step(self, parameters: Parameters) -> None:
        """Take `parameters` into the average."""
        if self.offload:
            self.to(self.device, non_blocking=True)
        super().step(parameters)
        self._rest()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.to("cpu" if self.offload else self.device)

    @contextmanager
    def swapped_in(self, parameters: Parameters) -> Iterator[None]:
        """Inside, `parameters` hold the average; their own values come back afterwards."""
        own = [parameter.detach().clone() for parameter in parameters]
        self.copy_to(parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, own, strict=True):
                    parameter.copy_(value)

    def _rest(self) -> None:
        if self.offload:
            self.to("cpu")
