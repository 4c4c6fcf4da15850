"""What INC's mapping of layers says about one layer."""

from __future__ import annotations

import warnings
from typing import Any

from lloydmax.integrations.inc.host import NAME, BaseConfig


class LayerConfig:
    """What INC's mapping of layers says about one layer with codebooks.

    INC's weight-only algorithms read ``dtype``, ``bits`` and ``group_size`` of every configuration for their
    statistics, and a few options of their own off whichever configuration comes last.

    Attributes:
        bits: of a code.
        root: the configuration of the whole model while the algorithm runs, else ``None``.
    """

    name = NAME
    dtype = NAME
    group_size = -1

    def __init__(self, bits: int, root: BaseConfig | None = None) -> None:
        self.bits, self.root = bits, root

    def to_dict(self) -> dict[str, Any]:
        """For INC's statistics."""
        return {"dtype": self.dtype, "bits": self.bits, "group_size": self.group_size}

    def __getattr__(self, name: str) -> Any:
        if name in ("use_layer_wise", "use_block_wise", "quant_lm_head"):
            warnings.warn(
                f"INC does not pass on {name!r} of the other configuration when CodebookConfig comes last; "
                "write CodebookConfig(...) + the other one, or compose(...)",
                stacklevel=2,
            )
            return False
        if name == "model_path":
            return ""
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"LayerConfig(bits={self.bits})"
