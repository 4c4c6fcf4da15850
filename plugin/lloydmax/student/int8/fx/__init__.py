"""FX graph mode of ``torch.ao.quantization``, as long as torch has it; nothing else of lloydmax needs it."""

from lloydmax.student.int8.fx.conversion import converted
from lloydmax.student.int8.fx.graph import fake_quantized

__all__ = ["converted", "fake_quantized"]
