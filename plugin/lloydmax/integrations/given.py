"""What hosts are given: they change the layers of a model in place, which not every model allows."""

from __future__ import annotations

from torch import nn

from lloydmax.errors import IntegrationError
from lloydmax.network.private import refuse_scripts, unwrapped


def refuse_unchangeable(model: nn.Module, host: str) -> None:
    """Refuse a model whose layers a host cannot change in place.

    Args:
        model: or a module of it.
        host: its name, for the message.

    Raises:
        ModelError: no network, or a ScriptModule. IntegrationError: it is, or has within it, a wrapper such as
            ``DataParallel`` or what ``torch.compile`` gives; a parameter was made in inference mode.
    """
    refuse_scripts(model)
    for name, module in model.named_modules():
        if unwrapped(module) is not module:
            inner = "_orig_mod" if hasattr(module, "_orig_mod") else "module"
            raise IntegrationError(
                f"{name or 'the model'} is wrapped in {type(module).__name__}, and {host} changes layers in place: "
                f"pass what is inside (its .{inner}), and wrap the result"
            )
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise IntegrationError(
                f"{name} was made in torch.inference_mode(), and {host} cannot change it: make the model outside of it"
            )
