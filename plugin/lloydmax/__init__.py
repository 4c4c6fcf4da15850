"""lloydmax: k-means codebooks for trained PyTorch models, and their accuracy back without labels."""

from lloydmax.checkpoint import inspect, load, save, verify
from lloydmax.choosing.curve import SearchCurve, search_curve
from lloydmax.choosing.search import SearchResult, search
from lloydmax.choosing.sweep import Sweep
from lloydmax.choosing.sweeping import sweep
from lloydmax.codebook.codebook import Codebook
from lloydmax.compare import compare
from lloydmax.compress import Result, compress
from lloydmax.data import images, sounds, texts
from lloydmax.defaults import recipe_for
from lloydmax.errors import (
    CheckpointError,
    DataError,
    ExportError,
    FitError,
    IntegrationError,
    KernelError,
    LloydmaxError,
    ModelError,
    OutputError,
    PlanMismatchError,
    PluginError,
    RecipeError,
    RecoveryError,
    ReportError,
)
from lloydmax.exporting.export import Export, export
from lloydmax.fitting.codebook import fit_codebook
from lloydmax.hooks.events import StopRecovery
from lloydmax.hooks.hookspecs import hookimpl
from lloydmax.hooks.units import BudgetError
from lloydmax.importing.from_any_precision import from_any_precision
from lloydmax.importing.from_coremltools import from_coremltools
from lloydmax.importing.from_squeezellm import from_squeezellm
from lloydmax.importing.from_torchao import from_torchao
from lloydmax.moved import keep_old_paths
from lloydmax.plan.plan import Plan, plan, verify_plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.recovery.steps import distill, renormalize, run_step
from lloydmax.report import Report
from lloydmax.runtime.cache import Cache
from lloydmax.runtime.code import VERSION as __version__
from lloydmax.student.attachment import codebooks, set_cache
from lloydmax.student.serving import set_kernel
from lloydmax.teacher.fitness import Fitness, data_fitness
from lloydmax.teacher.synthesis import synthesize

__all__ = [
    "BudgetError",
    "Cache",
    "CheckpointError",
    "Codebook",
    "DataError",
    "Export",
    "ExportError",
    "FitError",
    "Fitness",
    "IntegrationError",
    "KernelError",
    "LloydmaxError",
    "ModelError",
    "OutputError",
    "Plan",
    "PlanMismatchError",
    "PluginError",
    "Recipe",
    "RecipeError",
    "RecoveryError",
    "Report",
    "ReportError",
    "Result",
    "SearchCurve",
    "SearchResult",
    "StopRecovery",
    "Sweep",
    "__version__",
    "codebooks",
    "compare",
    "compress",
    "data_fitness",
    "distill",
    "export",
    "fit_codebook",
    "from_any_precision",
    "from_coremltools",
    "from_squeezellm",
    "from_torchao",
    "hookimpl",
    "images",
    "inspect",
    "load",
    "plan",
    "recipe_for",
    "renormalize",
    "run_step",
    "save",
    "search",
    "search_curve",
    "set_cache",
    "set_kernel",
    "sounds",
    "sweep",
    "synthesize",
    "texts",
    "verify",
    "verify_plan",
]

keep_old_paths()
