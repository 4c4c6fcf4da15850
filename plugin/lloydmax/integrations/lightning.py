"""Lightning: a callback that compresses the model at the end of ``fit``.

compress = Compress("recipe.yaml", "small.safetensors")
Trainer(callbacks=[compress]).fit(module, loader)
print(compress.result.report)
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lloydmax.compress import Result, compress
from lloydmax.errors import IntegrationError, OutputError
from lloydmax.integrations.absent import absent
from lloydmax.network.given import network
from lloydmax.plan.plan import plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.runtime.files import refusal

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            raise absent("Lightning", ("lightning", "pytorch-lightning"), "lightning", error) from error

__all__ = ["Compress"]


class Compress(Callback):
    """Compresses the model when ``trainer.fit`` has trained it; the module itself is left as it is.

    Under several processes (``strategy="ddp"``) they share the work, and the first one writes the file. A recipe that
    does not fit the model, and a file that cannot be written, are refused before the training begins.

    Args:
        recipe: anything that :meth:`lloydmax.Recipe.load` takes.
        path: of the ``.safetensors`` file; ``None``: nothing is written.
        network: attribute of the module that holds the network, such as ``"net"``; ``None``: the
            module as a whole, as its ``forward`` runs it.
        data: what :func:`lloydmax.compress` takes; ``None``: the trainer's training loader, without its labels.
        options: others of :func:`lloydmax.compress`.

    Attributes:
        result: of :func:`lloydmax.compress`; ``None`` until ``fit`` is done.

    Raises:
        RecipeError: as :meth:`lloydmax.Recipe.load`. IntegrationError: an option that there is not; later: no such
            attribute, or several loaders to choose from.
    """

    def __init__(
        self,
        recipe: Any,
        path: str | Path | None = None,
        *,
        network: str | None = None,
        data: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.recipe, self.path, self.network, self.data = Recipe.load(recipe), path, network, data
        known = inspect.signature(compress).parameters.keys() - {"model", "recipe", "data"}
        if unknown := sorted(options.keys() - known):
            raise IntegrationError(f"Compress has no option {unknown[0]!r}; there are {', '.join(sorted(known))}")
        self.options = options
        self.result: Result | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what cannot work."""
        plan(self._network(pl_module), self.recipe, self.options.get("example_inputs"))
        if self.path is not None and trainer.is_global_zero and (reason := refusal(self.path)):
            raise OutputError(reason)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Compress, save, and log the agreement and the bytes."""
        data = _loader(trainer) if self.data is None else self.data
        self.result = compress(self._network(pl_module), self.recipe, data, **self.options)
        if self.path is not None:
            self.result.save(self.path)
        report = self.result.report
        told = {"lloydmax/bytes": report.bytes.file, "lloydmax/agreement": report.agreement.after}
        for logger in trainer.loggers:
            logger.log_metrics(
                {name: float(value) for name, value in told.items() if value is not None}, trainer.global_step
            )

    def _network(self, module: nn.Module) -> nn.Module:
        if self.network is None:
            return module
        try:
            return network(module.get_submodule(self.network))
        except AttributeError:
            children = ", ".join(repr(name) for name, _ in module.named_children())
            raise IntegrationError(
                f"{type(module).__name__} has no network {self.network!r}; it has {children or 'none'}"
            ) from None


def _loader(trainer: Any) -> Any:
    """The loader that the trainer trains with."""
    loader = trainer.train_dataloader
    if isinstance(loader, (dict, list, tuple)):
        raise IntegrationError(
            "the trainer has several training loaders: name the inputs, as in Compress(..., data=...)"
        )
    return loader
