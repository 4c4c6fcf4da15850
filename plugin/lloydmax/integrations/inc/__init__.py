"""lloydmax as an algorithm of Intel Neural Compressor 3.x: importing this package registers it, nothing is patched.

from lloydmax.integrations.inc import CodebookConfig
from neural_compressor.torch.quantization import quantize

q = quantize(model, CodebookConfig(centroids=16))
"""

from lloydmax.integrations.inc.algorithm import register
from lloydmax.integrations.inc.composition import Composed, compose
from lloydmax.integrations.inc.config import CodebookConfig
from lloydmax.integrations.inc.files import load, save_portable
from lloydmax.integrations.inc.static import except_codebooks, fold_batch_norms

register()

__all__ = [
    "CodebookConfig",
    "Composed",
    "compose",
    "except_codebooks",
    "fold_batch_norms",
    "load",
    "register",
    "save_portable",
]
