"""What INC's mapping of layers says about one layer."""

from __future__ import annotations

from typing import Any

from lloydmax.integrations.inc.host import NAME, BaseConfig


class LayerConfig:
    """What INC's mapping of layers says about one layer with codebooks.

    Attributes:
        bits: of a code.
        root: the configuration of the whole model while the algorithm runs, else ``None``.
        others: the configurations of INC's own algorithms that run afterwards.
        taken: the layers that these take.
    """

    name = NAME
    dtype = NAME
    group_size = -1

    def __init__(
        self,
        bits: int,
        root: BaseConfig | None = None,
        others: tuple[BaseConfig, ...] = (),
        taken: frozenset[str] = frozenset(),
    ) -> None:
        self.bits, self.root, self.others, self.taken = bits, root, others, taken

    def to_dict(self) -> dict[str, Any]:
        """For INC's statistics."""
        return {"dtype": self.dtype, "bits": self.bits, "group_size": self.group_size}

    def __repr__(self) -> str:
        return f"LayerConfig(bits={self.bits})"
