"""Images beyond the size that a model was trained at: stages of rising size, memory that fits the machine."""

from .guidance import calls_of_one_sample
from .high_resolution import generate_high_resolution
from .memory import denoiser_memory
from .plan import Plan, plan_generation

__all__ = ["Plan", "calls_of_one_sample", "denoiser_memory", "generate_high_resolution", "plan_generation"]
