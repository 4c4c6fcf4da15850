"""First calls of a private tree: what they would write is copied first, and what they must not reach is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lloydmax.errors import ModelError
from lloydmax.network.given import refuse_lazy
from lloydmax.network.private import original
from lloydmax.runtime.dispatch import seen_by

T = TypeVar("T")


def guarded(tree: nn.Module, call: Callable[[], T]) -> T:
    """What a call of a private tree gives.

    A tensor that it shares with the caller's model and would write (a cache, a counter, an embedding with
    ``max_norm``) is copied, and the call is made again.

    Args:
        tree: from :func:`~lloydmax.network.private.private`; others are just called.
        call: can be repeated.

    Raises:
        ModelError: the call reaches the caller's own parameters, by something that copies share (a lambda, a weak
            reference): its student would be the uncompressed model. Or a parameter is lazy.
    """
    caller = original(tree)
    if caller is tree:
        return call()
    refuse_lazy(caller)
    watching = _Watching(caller)
    while True:
        try:
            with seen_by(watching):
                return call()
        except _Writing as found:
            _part(tree, found.storage)
            watching.storages.discard(found.storage)


class _Writing(BaseException):
    """An operation is about to write into this storage of the caller's."""

    def __init__(self, storage: int) -> None:
        super().__init__()
        self.storage = storage


class _Watching(TorchDispatchMode):
    """Looks at the arguments of every operation of this thread."""

    def __init__(self, caller: nn.Module) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in _held(caller)}
        self._caller = type(caller).__name__
        self.storages = {place for _, tensor in _held(caller) if (place := _storage(tensor))}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in given if isinstance(given, (list, tuple)) else (given,):
                if isinstance(tensor, Tensor):
                    self._look(tensor, writes)
        return func(*args, **kwargs)

    def _look(self, tensor: Tensor, writes: bool) -> None:
        if (name := self._names.get(id(tensor))) is not None:
            raise ModelError(
                f"the forward method of {self._caller} reaches {name} by something that copies of the model share, "
                "such as a lambda, a closure or a weak reference: the compressed copy would run the original's "
                "weights. Use self, in a method"
            )
        if writes and (storage := _storage(tensor)) in self.storages:
            raise _Writing(storage)


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All tensors that modules hold, with their names."""
    for prefix, module in model.named_modules():
        for held in (module._parameters, module._buffers, vars(module)):
            for leaf, value in held.items():
                if isinstance(value, Tensor):
                    yield f"{prefix}.{leaf}".lstrip("."), value


def _storage(tensor: Tensor) -> int:
    """Where the memory of a tensor begins; 0: it has none that could be shared."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _part(tree: nn.Module, storage: int) -> None:
    """Give what lies in this storage memory of its own; tied tensors stay tied."""
    for _, tensor in {id(tensor): (name, tensor) for name, tensor in _held(tree)}.values():
        if _storage(tensor) == storage:
            tensor.data = tensor.detach().clone()
