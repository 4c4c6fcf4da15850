"""The teacher: the original, its outputs, and how others agree with it."""
