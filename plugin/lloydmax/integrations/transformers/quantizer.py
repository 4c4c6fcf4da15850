"""What transformers calls while ``from_pretrained`` runs: compress on loading, or load what is compressed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax.checkpoint import load
from lloydmax.compress import compress
from lloydmax.defaults import recipe_for
from lloydmax.errors import IntegrationError
from lloydmax.format.folder import IN_FOLDER
from lloydmax.format.inspection import inspect
from lloydmax.integrations.transformers.config import LloydmaxConfig
from lloydmax.integrations.transformers.folder import METHOD
from lloydmax.integrations.transformers.host import HfQuantizer, register_quantizer
from lloydmax.integrations.transformers.loading import cast, fill
from lloydmax.integrations.transformers.model import abandon, adopt, dtype_of
from lloydmax.integrations.transformers.tokens import tokenizer_in
from lloydmax.runtime.temporary import TemporaryFolder
from lloydmax.student.dense import decompressed

_PLACED_BY_HOST = ("auto", "balanced", "balanced_low_0", "sequential")


@register_quantizer(METHOD)
class LloydmaxQuantizer(HfQuantizer):
    """A model's way through ``from_pretrained``; also what a compressed model has as ``hf_quantizer``.

    A folder that holds a compressed file is read by :func:`lloydmax.load` when everything else is in place: until then
    the model stays without memory, and transformers has no weights to look for, so that it makes none at random.
    """

    quantization_config: LloydmaxConfig

    def __init__(self, quantization_config: LloydmaxConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized and quantization_config.bits is None and quantization_config.recipe is None:
            raise IntegrationError("LloydmaxConfig needs bits, such as bits=3, or a recipe to compress a model")
        self._device: Any = None
        self._wanted: Any = None
        self._untold = False
        self._file: Path | None = None
        self._undo: list[Any] = []

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Refuse a model that is spread over devices."""
        if isinstance(device_map, Mapping) and len(set(map(str, device_map.values()))) > 1:
            raise IntegrationError(
                "lloydmax keeps a compressed model on one device: give one, such as device_map='cuda:0' or 'cpu'"
            )

    def update_device_map(self, device_map: Any) -> Any:
        """One device, the accelerator where there is one, for ``"auto"`` and the like."""
        if isinstance(device_map, str) and device_map in _PLACED_BY_HOST:
            found = torch.accelerator.current_accelerator(check_available=True)
            device_map = {"": torch.device("cpu" if found is None else found)}
        self._device = next(iter(device_map.values()), None) if device_map else None
        return device_map

    def update_attn_implementation(self, config: Any) -> Any:
        """Where transformers asks about attention: the first look at the configuration, before files are looked for."""
        if self.pre_quantized:
            _check(Path(config.name_or_path) / IN_FOLDER)
            config.transformers_weights = IN_FOLDER
            self._untold = getattr(config, "dtype", None) is None
            if self._untold:  # else it is taken from the file, where floats may be narrower than in the model
                config.dtype = torch.float32
        return config

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype that is asked for; a compressed model gets it when it is loaded as it is."""
        self._wanted = None if self._untold and dtype == torch.float32 else dtype
        return dtype

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **kwargs: Any) -> None:
        if not self.pre_quantized:
            return
        self._file = Path(checkpoint_files[0])
        hook = model.register_state_dict_post_hook(lambda module, state, prefix, local: state.clear())
        model._keys_to_ignore_on_load_unexpected = {"."}
        self._undo = [hook.remove, partial(vars(model).pop, "_keys_to_ignore_on_load_unexpected")]
        for module in model.modules():  # what it computes itself is made; weights stay without memory
            module._is_hf_initialized = not module._non_persistent_buffers_set

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
        if self.pre_quantized:
            self._load(model)
        else:
            self._compress(model)
        self.quantization_config = model.config.quantization_config = self.quantization_config.kept()
        adopt(model, self)

    def _load(self, model: Any) -> None:
        while self._undo:
            self._undo.pop()()
        assert self._file is not None
        fill(model, self._file)
        if self._device is not None:
            nn.Module.to(model, self._device)
        if self._wanted not in (None, dtype_of(model)):
            cast(model, self._wanted)

    def _compress(self, model: Any) -> None:
        """In place: what was compressed goes through a file, so that a model is now what it will be when it is read."""
        config, recipe = self.quantization_config, self.quantization_config.recipe
        data, reference, tokenizer = config.data, config.reference_data, config.tokenizer
        known = reference if data is None else data
        if tokenizer is None and known is not None:
            tokenizer = tokenizer_in(model.config.name_or_path)
        if config.bits is not None:
            effort = 1.0 if config.effort is None else config.effort
            recipe = recipe_for(model, config.bits, known, effort, tokenizer=tokenizer)
        given = {"seed": config.seed, "progress": config.progress, "tokenizer": tokenizer}
        result = compress(model, recipe, data, reference, **given)
        folder = TemporaryFolder()
        try:
            file = folder.path / IN_FOLDER
            result.save(file)
            del result
            load(file, model)
        finally:
            folder.remove()

    def get_state_dict_and_metadata(self, model: Any) -> tuple[None, dict[str, str]]:
        """Only adapters are saved in transformers' own way; see :mod:`lloydmax.integrations.transformers.model`."""
        return None, {}

    def is_serializable(self) -> bool:
        """Always: ``save_pretrained`` writes the compressed file."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether adapters on top of the model can be trained."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Whether a ``Trainer`` takes the model without adapters, as it does to evaluate it."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Whether ``generate`` may compile the model."""
        return True

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        decompressed(model)
        abandon(model)
        return model if dtype is None else nn.Module.to(model, dtype)


def _check(file: Path) -> None:
    """Refuse a damaged header in our words, before transformers opens the file; what it fetches is looked at later.

    Raises:
        CheckpointError: see :func:`lloydmax.format.inspection.inspect`.
    """
    if file.exists():
        inspect(file)
