"""The demo: everything once on an embedded teacher, with a report that shows what came of it."""

from .run import run_demo
from .settings import TEACHERS, DemoSettings, settings_for
from .summary import summarise

__all__ = ["TEACHERS", "DemoSettings", "run_demo", "settings_for", "summarise"]
