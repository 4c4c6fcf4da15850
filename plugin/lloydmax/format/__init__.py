"""The file: its document, how codes are packed, its sizes, and reading with distrust. README.md has the bytes."""

from lloydmax.format.inspection import Inspection, inspect, verify

__all__ = ["Inspection", "inspect", "verify"]
