"""What can go wrong, as exceptions whose message tells a person what to do."""

from __future__ import annotations


class LloydmaxError(Exception):
    """Base of every error that lloydmax raises on purpose."""


class RecipeError(LloydmaxError, ValueError):
    """A recipe is not valid, or does not fit the model. The message names file, line and field."""


class ModelError(LloydmaxError, ValueError):
    """A model cannot be compressed as it is: no values, a script, or something in it that cannot be copied."""


class FitError(LloydmaxError, ValueError):
    """A codebook cannot be fitted to these values (empty, NaN or infinite weights, wrong options)."""


class DataError(LloydmaxError, ValueError):
    """The unlabelled data cannot be read, is empty, or does not fit the model."""


class RecoveryError(LloydmaxError, RuntimeError):
    """A recovery step cannot run on this model, data or plan."""


class PlanMismatchError(LloydmaxError, RuntimeError):
    """A model does not hold what the plan says (see :func:`lloydmax.verify_plan`)."""


class CheckpointError(LloydmaxError, RuntimeError):
    """A file is damaged, hostile, of another version, or belongs to another model."""


class ReportError(LloydmaxError, ValueError):
    """A JSON file is not a report, sweep or search, or is one of another version of lloydmax."""


class PluginError(LloydmaxError, RuntimeError):
    """A plugin is broken, missing, or registers a name that is already taken."""


class IntegrationError(LloydmaxError, RuntimeError):
    """A host toolkit is absent, or is asked for something that it and lloydmax cannot do together."""


class ExportError(LloydmaxError, RuntimeError):
    """A model cannot be exported: a format cannot hold something in it, or a package is not installed."""


class OutputError(LloydmaxError, OSError):
    """A file or folder that is asked for cannot be written."""


class KernelError(LloydmaxError, RuntimeError):
    """A kernel cannot run on this machine, or has nothing to run in this model (see :func:`lloydmax.set_kernel`)."""
