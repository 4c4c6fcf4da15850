"""INC's ready configurations, with codebooks among them."""

from __future__ import annotations

from typing import Any

from lloydmax.integrations.inc.config import CodebookConfig
from lloydmax.integrations.inc.host import get_processor_type_from_user_config, inc_woq_tuning_config


def get_default_codebook_config(processor_type: Any = None) -> CodebookConfig:
    """The default configuration, as ``get_default_rtn_config`` gives INC's.

    Args:
        processor_type: as there: ``"client"``, ``"server"`` or INC's ``ProcessorType``; ``None``: this machine's.
    """
    return CodebookConfig.get_predefined_configs()[get_processor_type_from_user_config(processor_type)]


def get_woq_tuning_config() -> list[Any]:
    """INC's set of weight-only configurations for ``autotune``, and ``CodebookConfig(bits=4)``.

    INC's own function of this name has a fixed list, which nothing can be added to without patching it.
    """
    return [*inc_woq_tuning_config(), CodebookConfig(bits=4)]
