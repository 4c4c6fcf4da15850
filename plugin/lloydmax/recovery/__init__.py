"""Recovery: runs the steps that win accuracy back, and goes on after a kill."""
