"""lloydmax as an algorithm of Intel Neural Compressor 3.x: importing this package registers it, nothing is patched.

from lloydmax.integrations.inc import CodebookConfig
from neural_compressor.torch.quantization import quantize

q = quantize(model, CodebookConfig(bits=4))
"""

from lloydmax.integrations.inc.algorithm import register
from lloydmax.integrations.inc.composition import Composed, compose
from lloydmax.integrations.inc.config import CodebookConfig
from lloydmax.integrations.inc.files import load, save, save_portable
from lloydmax.integrations.inc.predefined import get_default_codebook_config, get_woq_tuning_config
from lloydmax.integrations.inc.static import except_codebooks, fold_batch_norms

register()

__all__ = [
    "CodebookConfig",
    "Composed",
    "compose",
    "except_codebooks",
    "fold_batch_norms",
    "get_default_codebook_config",
    "get_woq_tuning_config",
    "load",
    "register",
    "save",
    "save_portable",
]
