"""The int8 student: weights and activations quantized, trained thresholds, int8 kernels in the end.

One protocol (:class:`~lloydmax.student.int8.hosts.Host`) stands between it and who does that: ``fx``, the FX graph mode
of ``torch.ao.quantization``, which may leave PyTorch, and ``own``, which needs plain PyTorch only. The student keeps
the names of the original architecture, so that such a model has codebooks, a plan and a file like any other.
"""

from lloydmax.student.int8.graph import calibrate, hold, restored, set_trainable
from lloydmax.student.int8.hosts import host
from lloydmax.student.int8.model import Int8Model
from lloydmax.student.int8.weights import refuse

__all__ = ["Int8Model", "calibrate", "hold", "host", "refuse", "restored", "set_trainable"]
