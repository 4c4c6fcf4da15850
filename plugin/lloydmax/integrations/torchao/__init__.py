"""Codebooks in torchao: a configuration for ``quantize_`` and a quantizer for PT2E.

Importing this package registers :class:`CodebookWeightConfig` with torchao, by torchao's own registries.
"""

from lloydmax.integrations.torchao.config import CodebookWeightConfig, recipe_to_config
from lloydmax.integrations.torchao.pt2e import CodebookQuantizer, verify
from lloydmax.integrations.torchao.tensors import to_torchao

__all__ = ["CodebookQuantizer", "CodebookWeightConfig", "recipe_to_config", "to_torchao", "verify"]
