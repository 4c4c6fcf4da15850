"""The fields of a configuration: which make a rule for layers, which belong to a whole model, and their defaults."""

from __future__ import annotations

from typing import Any

from lloydmax.integrations.inc.host import DEFAULT_WHITE_LIST

RULE = ("centroids", "bias_centroids", "granularity", "quantizer", "importance")
WHOLE = ("bits", "effort", "quant_lm_head", "trainable", "recover", "storage", "seed", "others", "recipe")
DEFAULTS: dict[str, Any] = {
    "centroids": 16,
    "bias_centroids": None,
    "granularity": "tensor",
    "quantizer": "kmeans",
    "importance": None,
    "bits": None,
    "effort": None,
    "quant_lm_head": None,
    "trainable": "unquantized",
    "recover": None,
    "storage": None,
    "seed": 0,
    "others": None,
    "recipe": None,
    "white_list": DEFAULT_WHITE_LIST,
}
