"""INC's own option words in a ``CodebookConfig``: what they mean for codebooks, or what to write in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from lloydmax.errors import RecipeError
from lloydmax.hooks import registry
from lloydmax.integrations.inc.fields import DEFAULTS
from lloydmax.recipe.sections import KEEP
from lloydmax.runtime.arguments import number

_MOST_BITS = 16
_OFF: tuple[Any, ...] = (None, False, "", {}, [], ())
"""What switches an option of INC off, which is always granted."""
_GRID = "{} is about a grid of integers, which codebooks do not have (their values are fitted freely): leave it out"
_SCALES = (
    "{} is about scales, which codebooks do not have: leave it out; storage={{'floats': 'float16'}} halves centroids"
)
_ORDER = "{} is how GPTQ corrects errors: leave it out; recover='reconstruct', with data, does what it is for"
_SCALED = "{} is about scales of inputs: leave it out; importance='fisher', with data, weighs errors by their effect"
_ROUNDING = "{} is how AutoRound trains: leave it out; write recover={{'step': 'distill', 'steps': 200, 'lr': 1e-3}}"
_DATA = "{} is about calibration data: leave it out, and give the data that you want by data= or run_args=(loader,)"
_ACTIVATIONS = (
    "{} is about activations, which stay floats here: lloydmax.compress with 'activations:' makes int8 models"
)
_FROM_DISK = (
    "{} reads layers from disk one by one: leave it out; lloydmax.integrations.transformers.compress_folder compresses "
    "folders larger than memory"
)
_HOW = "{} is about how INC's own algorithm runs: leave it out"
_SAID: dict[str, str] = {
    **dict.fromkeys(("use_sym", "use_full_range", "enable_full_range", "round_method"), _GRID),
    **dict.fromkeys(("quant_zero", "quant_scale", "scale_quant_group_size", "scale_dtype", "super_bits"), _SCALES),
    **dict.fromkeys(("use_double_quant", "super_group_size", "ignore_scale_zp_bits"), _SCALES),
    **{f"double_quant_{word}": _SCALES for word in ("dtype", "bits", "use_sym", "group_size")},
    **dict.fromkeys(("act_order", "hybrid_order", "percdamp", "block_size", "static_groups"), _ORDER),
    **dict.fromkeys(("true_sequential", "fp8_aware"), _ORDER),
    **dict.fromkeys(("use_auto_scale", "use_auto_clip", "folding", "absorb_layer_dict", "absorb_to_layer"), _SCALED),
    **dict.fromkeys(("alpha", "scale_sharing", "init_alpha", "alpha_min", "alpha_max", "alpha_step"), _SCALED),
    **dict.fromkeys(("shared_criterion", "do_blockwise", "auto_alpha_args"), _SCALED),
    **dict.fromkeys(("iters", "lr", "minmax_lr", "lr_scheduler", "gradient_accumulate_steps", "nblocks"), _ROUNDING),
    **dict.fromkeys(("enable_quanted_input", "enable_minmax_tuning", "enable_norm_bias_tuning"), _ROUNDING),
    **dict.fromkeys(("enable_adam", "not_use_best_mse", "dynamic_max_gap", "batch_size"), _ROUNDING),
    **dict.fromkeys(("nsamples", "seqlen", "dataset", "sampler", "tokenizer", "processor", "image_processor"), _DATA),
    **dict.fromkeys(("template", "truncation", "extra_data_dir"), _DATA),
    **dict.fromkeys(("act_bits", "act_group_size", "act_sym", "act_dtype", "act_dynamic", "act_algo"), _ACTIVATIONS),
    **dict.fromkeys(("act_granularity", "out_dtype"), _ACTIVATIONS),
    **dict.fromkeys(("use_layer_wise", "use_block_wise", "model_path"), _FROM_DISK),
    **dict.fromkeys(("amp", "low_gpu_mem_usage", "low_cpu_mem_usage", "enable_torch_compile", "output_dir"), _HOW),
    **dict.fromkeys(("enable_w4a8", "excluded_precisions", "super_dtype"), _HOW),
    "device_map": "{} is about devices: leave it out, and move the model there before quantize",
    "export_format": "{} is about files: leave it out; save(model, folder) writes one, lloydmax.export others",
    "layer_config": "{} is AutoRound's own: write set_local(name, CodebookConfig(...))",
    "to_quant_block_names": "{} is AutoRound's own: write white_list=['model.layers.*']",
    "quant_nontext_module": "{} is AutoRound's own: a CodebookConfig is for all layers; set_local leaves some alone",
    "shared_layers": "{} is AutoRound's own: tied weights share their codes by themselves",
    "target_bits": "{} is AutoRound's own: write bits={value!r}, effort=1, which chooses the centroids of each layer",
    "options": "{} is AutoRound's own: write bits=[3, 4] for autotune",
    **dict.fromkeys(
        ("auto_scheme_method", "auto_scheme_device_map", "auto_scheme_batch_size"),
        "{} is AutoRound's own: leave it out; bits=..., effort=1 chooses the centroids of each layer",
    ),
    "fp8_config": "{} is for FP8Config: write bits=8",
    **dict.fromkeys(("w_algo", "w_sym"), _GRID),
}
"""The words that mean nothing for codebooks."""
_WIDTHS = {"int": None, "int8": 8, "int7": 7, "int6": 6, "int5": 5, "int4": 4, "int3": 3, "int2": 2, "int1": 1}
_HALF = ("fp16", "bf16", "float16", "bfloat16")
_FLOAT = ("fp32", "float32", "float")


def asked(bits: Any, data: Any, effort: Any, others: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """What ``bits`` say: the size of a file, where there is an effort or data to reach it, else of a code.

    Args:
        bits, data, effort: of a ``CodebookConfig``.
        others: fields that a recipe by size decides itself.

    Returns:
        Bits and effort for :func:`lloydmax.recipe_for`, or twice ``None``; and words for :func:`translated`.

    Raises:
        RecipeError: a size, and fields that it decides; a number out of range.
    """
    if effort is None and (bits is None or data is None):
        return None, None, {} if bits is None else {"bits": bits}
    if told := [name for name, value in others.items() if value != DEFAULTS[name] and name != "bias_centroids"]:
        raise RecipeError(
            f"bits with effort or data make the whole recipe, {told[0]} included: leave {told[0]} out, or make the "
            "recipe yourself by lloydmax.recipe_for, change it, and give it to CodebookConfig.from_recipe"
        )
    bits, effort = 4.0 if bits is None else bits, 1.0 if effort is None else effort
    for one in bits if isinstance(bits, (list, tuple)) else [bits]:
        number("bits", one, RecipeError, above=True)
    for one in effort if isinstance(effort, (list, tuple)) else [effort]:
        number("effort", one, RecipeError)
    return bits, effort, {}


def translated(given: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that INC's words stand for; other words come back as they are.

    Args:
        given: words that no field of ``CodebookConfig`` is called by.
        fields: the fields of a rule; the options of its quantizer are passed on to that.

    Returns:
        Fields of ``CodebookConfig``, and what is left.

    Raises:
        RecipeError: a word, or a value, that has no meaning for codebooks; the message says what to write.
    """
    own = _options(fields["quantizer"])
    found = {word: value for word, value in given.items() if word in own}
    for word, value in given.items():
        if word in own or (word.startswith("double_quant_") and not given.get("use_double_quant")):
            continue
        if word in _MEANT:
            for field, meant in _MEANT[word](word, value):
                known = found.get(field, fields[field] if fields[field] != DEFAULTS[field] else meant)
                if known != meant:
                    raise RecipeError(f"{word}={value!r} means {field}={meant!r}, but {field}={known!r} is said, too")
                found[field] = meant
        elif word not in _SAID:
            found[word] = value
        elif not _is_off(word, value):
            raise RecipeError(_SAID[word].format(f"{word}={value!r}", value=value))
    return found


def _options(quantizer: str) -> Collection[str]:
    known = {one.name: one for one in registry.strategies() if one.kind == "quantizer"}
    return known[quantizer].options.model_fields if quantizer in known else ()


def _is_off(word: str, value: Any) -> bool:
    return word != "percdamp" and any(value is off or (value == off and type(value) is type(off)) for off in _OFF)


def _bits(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    each = list(value) if isinstance(value, (list, tuple)) else [value]
    for bits in each:
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= _MOST_BITS:
            raise RecipeError(
                f"{word}={value!r}: bits of a code are whole numbers from 1 to {_MOST_BITS} (n bits are 2**n "
                "centroids); add effort=1, and data where there are any, for a file of so many bits for each parameter"
            )
    yield "centroids", [2**bits for bits in each] if isinstance(value, (list, tuple)) else 2**value


def _dtype(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    if isinstance(value, (list, tuple)):
        widths = [pair for one in value for pair in _dtype(word, one)]
        if len(widths) != len(value) or any(field != "centroids" for field, _ in widths):
            raise RecipeError(f"{word}={value!r}: as choices for autotune, write bits=[...]")
        yield "centroids", [centroids for _, centroids in widths]
    elif value in _FLOAT:
        yield "quantizer", KEEP
    elif value in _HALF:
        raise RecipeError(
            f"{word}={value!r} is for MixedPrecisionConfig: CodebookConfig(...) + MixedPrecisionConfig(...)"
        )
    elif value not in _WIDTHS:
        bits = 8 if "8" in str(value) else 4
        raise RecipeError(
            f"{word}={value!r} is not a codebook's: the values of its {2**bits} codes would be given, and k-means fits "
            f"them: write bits={bits}"
        )
    elif (width := _WIDTHS[value]) is not None:
        yield "centroids", 2**width


def _group_size(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    if value in (None, 0):
        return
    if value != -1:
        raise RecipeError(
            f"{word}={value!r}: codebooks are shared by whole output channels, not by parts of one: leave it out for "
            f"one codebook a layer, or write {word}=-1 (granularity='channel') for one a channel, or "
            "granularity='group:8' for one for 8 channels"
        )
    yield "granularity", "channel"


def _group_dim(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    if value not in (None, 1):
        raise RecipeError(f"{word}={value!r}: codebooks are shared along output channels only: leave it out")
    yield from ()


def _granularity(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    known = {"per_channel": "channel", "per_tensor": "tensor"}
    if value not in known:
        raise RecipeError(f"{word}={value!r}: write granularity='tensor', 'channel' or 'group:8'")
    yield "granularity", known[value]


def _scheme(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    found = re.fullmatch(r"W(\d+)A16", value) if isinstance(value, str) else None
    if found is None:
        raise RecipeError(f"{word}={value!r}: codebooks are for weights: write bits=4, which is what W4A16 says")
    yield "centroids", 2 ** int(found[1])


def _granted(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What k-means does anyway: it minimizes the squared error."""
    yield from ()


_MEANT: dict[str, Callable[[str, Any], Iterator[tuple[str, Any]]]] = {
    "bits": _bits,
    "dtype": _dtype,
    "w_dtype": _dtype,
    "data_type": _dtype,
    "group_size": _group_size,
    "blocksize": _group_size,
    "group_dim": _group_dim,
    "w_granularity": _granularity,
    "scheme": _scheme,
    "use_mse_search": _granted,
    "weight_only": _granted,
}
"""The words that mean something, and what: pairs of a field and its value."""
