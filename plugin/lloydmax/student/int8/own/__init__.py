"""Int8 models by plain PyTorch: thresholds placed by our own rules, and the integer kernels of oneDNN where a layer has
one. It needs neither ``torch.ao.quantization`` nor torchao."""

from lloydmax.student.int8.own.conversion import converted
from lloydmax.student.int8.own.graph import fake_quantized

__all__ = ["converted", "fake_quantized"]
