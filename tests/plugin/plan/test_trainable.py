"""Which parameters may learn."""

from __future__ import annotations

from lloydmax import plan
from torch import nn


def test_trainable_words(small_net: nn.Module) -> None:
    def trained(*words: str) -> set[str]:
        return set(plan(small_net, {"quantize": [{"layers": "head.*"}], "trainable": list(words)}).trainable)

    everything = {name for name, _ in small_net.named_parameters()}
    heads = {"head.0.weight", "head.2.weight"}
    assert trained("none") == set()
    assert trained("codebooks") == heads
    assert trained("unquantized") == everything - heads
    assert trained("all") == everything
    assert trained("norms") == {"bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias"}
    assert trained("biases") == {n for n in everything if n.endswith("bias")}
    assert trained("stem", "head") == {"stem.weight", "head.0.bias", "head.2.bias"}
