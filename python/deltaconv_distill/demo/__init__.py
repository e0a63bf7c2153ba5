"""The demo: everything once on the embedded teacher, with a report that shows what came of it."""

from .run import run_demo
from .settings import DemoSettings
from .summary import summarise

__all__ = ["DemoSettings", "run_demo", "summarise"]
