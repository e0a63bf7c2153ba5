"""What the package carries with it: a data set of captioned emoji and two text-to-image teachers trained on it."""

from .data import EmojiDataset, load_emoji
from .joint_teacher import JOINT_GUIDANCE_SCALE, joint_teacher_path, load_joint_teacher
from .teacher import DEMO_PROMPTS, GUIDANCE_SCALE, STEPS, load_teacher, teacher_path

__all__ = [
    "DEMO_PROMPTS",
    "GUIDANCE_SCALE",
    "JOINT_GUIDANCE_SCALE",
    "STEPS",
    "EmojiDataset",
    "joint_teacher_path",
    "load_emoji",
    "load_joint_teacher",
    "load_teacher",
    "teacher_path",
]
