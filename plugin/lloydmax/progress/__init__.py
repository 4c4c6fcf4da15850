"""Progress: bars and JSON lines while a run goes on, curves of what it told."""

from lloydmax.progress.bars import ProgressBars
from lloydmax.progress.jsonlog import JsonLog

__all__ = ["JsonLog", "ProgressBars"]
