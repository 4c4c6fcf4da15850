"""What is used of transformers, in one place, and a clear error where it is absent."""

from __future__ import annotations

from lloydmax.integrations.absent import absent

try:
    from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    from transformers.dynamic_module_utils import custom_object_save
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if not hasattr(HfQuantizer, "update_attn_implementation"):
        raise ImportError("5.20 is the first version that shows a quantizer the configuration")
except ImportError as error:
    raise absent("transformers", ("transformers",), "transformers", error) from error

__all__ = [
    "AutoConfig",
    "AutoTokenizer",
    "Conv1D",
    "HfQuantizer",
    "PreTrainedModel",
    "QuantizationConfigMixin",
    "WeightConverter",
    "WeightRenaming",
    "custom_object_save",
    "get_model_conversion_mapping",
    "register_quantization_config",
    "register_quantizer",
    "rename_source_key",
]
