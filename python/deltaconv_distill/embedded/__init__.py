"""What the package carries with it: a small data set of captioned emoji and a text-to-image teacher trained on it."""

from .data import EmojiDataset, load_emoji
from .teacher import DEMO_PROMPTS, GUIDANCE_SCALE, STEPS, load_teacher, teacher_path

__all__ = [
    "DEMO_PROMPTS",
    "GUIDANCE_SCALE",
    "STEPS",
    "EmojiDataset",
    "load_emoji",
    "load_teacher",
    "teacher_path",
]
