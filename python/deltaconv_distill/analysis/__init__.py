"""Which self-attentions are local, and how far they reach: attention profiles, kernel sizes, windows in their place."""

from .ablation import ablate_windows
from .generate import Generation
from .profile import Profile, schema
from .recording import Recording, Sampling, record
from .records import Ablation, LayerProfile, TimestepProfile
from .report import report_fragment, write_report
from .run import analyze, profile_of
from .summary import Rule

__all__ = [
    "Ablation",
    "Generation",
    "LayerProfile",
    "Profile",
    "Recording",
    "Rule",
    "Sampling",
    "TimestepProfile",
    "ablate_windows",
    "analyze",
    "profile_of",
    "record",
    "report_fragment",
    "schema",
    "write_report",
]
