"""Progress: bars and JSON lines while a run goes on, curves of what it told."""
