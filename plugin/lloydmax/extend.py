"""Everything that a strategy of your own needs, in one place.

(to be written)
"""

from lloydmax.data import Batch, Source
from lloydmax.data.batch import leaves
from lloydmax.hooks.events import Events
from lloydmax.hooks.protocols import Importance, Quantizer, Recovery, RecoveryStep, SearchMethod
from lloydmax.hooks.registry import nearest
from lloydmax.hooks.units import Option, Unit, smallest
from lloydmax.network.batch_norm import Moments, statistics_gap
from lloydmax.network.channels import Channels
from lloydmax.network.folding import fold_batch_norms, folded
from lloydmax.network.graph import Link, Network
from lloydmax.recovery.options import LoopOptions
from lloydmax.recovery.training import TrainingLoop
from lloydmax.runtime.modes import device_of, evaluating, evaluation_mode
from lloydmax.student.codebooks import CodebookWeight, attached
from lloydmax.student.observers import int8_parameters, observers, thresholds
from lloydmax.student.thresholds import TrainedThreshold
from lloydmax.teacher.agreement import Agreement, Comparison, divergences
from lloydmax.teacher.fisher import fisher_draws
from lloydmax.teacher.kept import Targets
from lloydmax.teacher.outputs import class_axis, output_tensors

__all__ = [name for name in dir() if not name.startswith("_")]
