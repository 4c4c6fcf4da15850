"""Recovery: runs the steps that win accuracy back, and goes on after a kill."""

from lloydmax.recovery.steps import distill, renormalize, run_step

__all__ = ["distill", "renormalize", "run_step"]
