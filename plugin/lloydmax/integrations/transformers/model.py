"""A model of transformers that holds codebooks: how it is saved, copied, trained around, and made ordinary again."""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.checkpoint import save
from lloydmax.errors import IntegrationError
from lloydmax.format.folder import IN_FOLDER
from lloydmax.integrations.made import OnTop, architecture, made, without
from lloydmax.integrations.transformers import adapters
from lloydmax.integrations.transformers.folder import METHOD, mark_config
from lloydmax.integrations.transformers.host import HfQuantizer, PreTrainedModel, custom_object_save
from lloydmax.runtime.files import made_folder
from lloydmax.student.layers import CodebookEmbedding, CodesHolder

_FOR_THE_HUB = ("repo_id", "commit_message", "token", "create_pr")


class CodebookModel(OnTop):
    """What the class of a compressed model has beside its architecture's. Classes with it are made by :func:`adopt`,
    under the architecture's own name; pickles and copies keep them."""

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str | None = None,
        variant: str | None = None,
        **options: Any,
    ) -> None:
        """Write the folder that ``from_pretrained`` takes, see :mod:`lloydmax.integrations.transformers.folder`; of a
        model that was given adapters by ``add_adapter``, these alone, as transformers does.

        Args:
            save_directory: the folder, made if it is missing.
            is_main_process: ``False``: nothing is written.
            state_dict: the model's own, as a ``Trainer`` gives it.
            push_to_hub: upload the folder afterwards; ``options`` are for ``push_to_hub``.
            max_shard_size: has no effect: there is one file.
            variant: refused.

        Raises:
            IntegrationError: a variant, other tensors than the model's, adapters within the model.
            CheckpointError, OutputError: the file, or the folder, cannot be written.
        """
        model: Any = self
        if getattr(self, "_hf_peft_config_loaded", False):
            given = {"is_main_process": is_main_process, "state_dict": state_dict, "push_to_hub": push_to_hub}
            super().save_pretrained(save_directory, **given, **options)  # type: ignore[misc]
            return
        _check_saved(model, state_dict, variant, options)
        if is_main_process:
            folder = made_folder(save_directory)
            save(model, folder / IN_FOLDER)
            _save_config(model, folder)
        if push_to_hub:
            wanted = {key: options[key] for key in _FOR_THE_HUB if key in options}
            model.push_to_hub(**{"repo_id": Path(save_directory).name, **wanted})

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: what is tied shares its codes."""

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """The table of tokens; another number of rows it gets only where neither it nor the head has codebooks.

        Raises:
            IntegrationError: one of them has.
        """
        model: Any = self
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        parts = [*table.modules(), *(() if head is None else head.modules())]
        if not any(isinstance(part, CodesHolder) for part in parts):
            return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)  # type: ignore[misc]
        if new_num_tokens in (None, table.num_embeddings) and not (args or kwargs.get("pad_to_multiple_of")):
            return table
        raise IntegrationError(
            "resize_token_embeddings: rows of tokens are in codebooks: resize the original, then compress it; or call "
            "model.dequantize() first"
        )

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Those of the original: each weight in codebooks counts, but none of these can be trained."""
        model: Any = self
        held = {module for module in model.modules() if isinstance(module, CodesHolder)}
        if exclude_embeddings:
            tables = (module for module in model.modules() if isinstance(module, CodebookEmbedding))
            held -= {inner for table in tables for inner in table.modules()}
        others: int = super().num_parameters(only_trainable, exclude_embeddings)  # type: ignore[misc]
        return others + sum(0 if only_trainable else math.prod(holder.layout.shape) for holder in held)

    def half(self) -> Any:
        """Centroids, and all that is not in codebooks, in float16."""
        model: Any = self
        return nn.Module.half(model)

    def float(self) -> Any:
        """Centroids, and all that is not in codebooks, in float32."""
        model: Any = self
        return nn.Module.float(model)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Where a ``Trainer`` begins to train.

        Raises:
            IntegrationError: the model has no adapters, so that only its norms and biases would learn.
        """
        if not _adapters(self):
            raise IntegrationError(
                "You cannot perform fine-tuning on purely quantized models: attach adapters (peft.get_peft_model), or "
                "call model.dequantize() first"
            )
        nn.Module.zero_grad(self, set_to_none)  # type: ignore[arg-type]


def adopt(model: nn.Module, quantizer: HfQuantizer) -> None:
    """Make every model of transformers in a finished model, in place, one that is saved with its codebooks.

    Args:
        model: any; what holds no codebooks is left alone.
        quantizer: what they get as ``hf_quantizer``, where they have none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and any(isinstance(inner, CodesHolder) for inner in module.modules()):
            adapters.enable()
            if not isinstance(module, CodebookModel):
                module.__class__ = made(type(module), CodebookModel)
            vars(module).setdefault("hf_quantizer", quantizer)
            vars(module).update(is_quantized=True, quantization_method=METHOD)


def abandon(model: nn.Module) -> None:
    """The reverse of :func:`adopt`, for a model that holds codebooks no more."""
    for module in model.modules():
        if isinstance(module, CodebookModel):
            module.__class__ = without(type(module), CodebookModel)
            for name in ("hf_quantizer", "quantization_method", "_lloydmax"):
                vars(module).pop(name, None)
            vars(module)["is_quantized"] = False


def _check_saved(model: Any, state: Mapping[str, Any] | None, variant: str | None, options: Mapping[str, Any]) -> None:
    if variant is not None or options.get("distributed_checkpoint"):
        what = "a variant" if variant is not None else "a distributed checkpoint"
        raise IntegrationError(f"save_pretrained: a compressed model has no {what}: leave it out")
    if within := _adapters(model):
        raise IntegrationError(
            f"save_pretrained: {within[0]} has an adapter: save adapters by the PeftModel's save_pretrained, and the "
            "model after unload() of that"
        )
    own = model.state_dict() if state is not None else {}
    if state is not None and not (own.keys() == state.keys() and all(_same(own[key], state[key]) for key in own)):
        raise IntegrationError("save_pretrained: state_dict is not that of the model: leave it out")


def _same(own: Any, given: Any) -> bool:
    if not isinstance(own, Tensor) or not isinstance(given, Tensor) or own.shape != given.shape:
        return own is given
    return own.data_ptr() == given.data_ptr() or torch.equal(own.cpu(), given.cpu())


def _adapters(model: Any) -> list[str]:
    """Names of the modules that are layers of PEFT."""
    layers = getattr(sys.modules.get("peft.tuners.tuners_utils"), "BaseTunerLayer", None)
    return [] if layers is None else [name for name, module in model.named_modules() if isinstance(module, layers)]


def dtype_of(model: nn.Module) -> torch.dtype:
    """Of the parameters, or of the centroids of a model that has no other floats."""
    floats = (tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point())
    return next((tensor.dtype for tensor in floats), torch.get_default_dtype())


def _save_config(model: Any, folder: Path) -> None:
    """What is beside the weights, the configuration last."""
    config = copy.deepcopy(model.config)
    config.dtype = str(dtype_of(model)).removeprefix("torch.")
    config.architectures = [architecture(type(model)).__name__]
    if model.is_remote_code():
        custom_object_save(model, str(folder), config=config)
    if model.can_generate():
        model.generation_config.save_pretrained(str(folder))
    asked = model.hf_quantizer.quantization_config.asked()
    config.save_pretrained(str(folder))
    mark_config(folder, asked)
