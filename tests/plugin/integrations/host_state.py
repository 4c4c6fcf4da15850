"""What an import changes in a process: prints ``{what: ...}`` as JSON. Run by ``test_hosts_unchanged.py``.

python host_state.py MODULE HOST [HOST_MODULE ...]
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections import OrderedDict, defaultdict
from types import ModuleType
from typing import Any

import numpy as np
import torch

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, frozenset, tuple)
"""By their exact types: to read the lazy ones of a host would import what is in them."""
Snapshot = dict[str, Any]


def process() -> Snapshot:
    """What every module of a process shares."""
    hooks = torch.nn.modules.module
    return {
        "warnings.filters": [repr(one) for one in warnings.filters],
        "warnings.showwarning": id(warnings.showwarning),
        "environment": dict(os.environ),
        "sys.path": list(sys.path),
        "sys.meta_path": list(map(repr, sys.meta_path)),
        "sys.excepthook": id(sys.excepthook),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "threads": threading.active_count(),
        "logging": (logging.root.level, [repr(one) for one in logging.root.handlers], logging.root.manager.disable),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()),
        "autocast": (torch.is_autocast_enabled("cpu"), str(torch.get_autocast_dtype("cpu"))),
        "engine": torch.backends.quantized.engine,
        "mkldnn": (torch.backends.mkldnn.enabled, torch.backends.mkldnn.deterministic),
        "print options": repr(torch._tensor_str.PRINT_OPTS),
        "random": (hash(random.getstate()), torch.random.get_rng_state().sum().item(), repr(np.random.get_state())),
        "hooks": [repr(getattr(hooks, name)) for name in dir(hooks) if name.startswith("_global_") and "hook" in name],
        "numpy errors": repr(np.geterr()),
    }


def host(names: list[str]) -> Snapshot:
    """The attributes of the modules and classes of packages, and what is in their containers, by identity."""
    found: Snapshot = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found |= _attributes(names)
    for logger in logging.root.manager.loggerDict:
        if logger.partition(".")[0] in names:
            one = logging.getLogger(logger)
            found[f"logger {logger}"] = (one.level, one.propagate, one.disabled, len(one.handlers), len(one.filters))
    return found


def _attributes(names: list[str]) -> Snapshot:
    found: Snapshot = {}
    for name, module in list(sys.modules.items()):
        if module is not None and name.partition(".")[0] in names:
            for key, value in list(vars(module).items()):
                found[f"{name}.{key}"] = id(value)
                found |= _inside(f"{name}.{key}", value, name)
    return found


def _inside(place: str, value: Any, module: str) -> Snapshot:
    """What one attribute holds: one level of a container, of the class of the module, or of its objects."""
    found: Snapshot = {}
    if type(value) in _CONTAINERS:
        found[f"{place}[]"] = _told(value)
    elif isinstance(value, type) and value.__module__ == module:
        for key, inner in vars(value).items():
            found[f"{place}.{key}"] = id(inner)
            if type(inner) in _CONTAINERS:
                found[f"{place}.{key}[]"] = _told(inner)
    elif not isinstance(value, (ModuleType, type)) and type(value).__module__ == module:
        for key, inner in getattr(value, "__dict__", {}).items():
            found[f"{place}.{key}"] = id(inner)
            if type(inner) in _CONTAINERS:
                found[f"{place}.{key}[]"] = _told(inner)
    return found


def _told(value: Any) -> list[str]:
    if isinstance(value, dict):
        held = ((key, sorted(map(str, one)) if isinstance(one, dict) else id(one)) for key, one in value.items())
        return [f"{key!r}: {one}" for key, one in held]
    return [repr(one) if isinstance(one, (str, int, type)) else str(id(one)) for one in value]


def changed(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """What was there and is another one now; of containers, what was added and what is gone."""
    found: dict[str, Any] = {}
    for key, old in before.items():
        new = after.get(key, "gone")
        if new != old and isinstance(old, list) and isinstance(new, list):
            more, less = ([o for o in these if o not in those] for these, those in ((new, old), (old, new)))
            found[key] = {"more": more, "less": less}
        elif new != old:
            found[key] = [str(old)[:200], str(new)[:200]]
    return found


def main() -> None:
    """Import the host's modules, then ours, and print what that changed."""
    ours, *theirs = sys.argv[1:]
    packages = sorted({name.partition(".")[0] for name in theirs})
    importlib.import_module("lloydmax")
    for name in theirs:
        importlib.import_module(name)
    importlib.import_module("torch.ao.quantization.quantize_fx")
    before = process(), host([*packages, "torch"])
    importlib.import_module(ours)
    after = process(), host([*packages, "torch"])
    common, of_host = (changed(old, new) for old, new in zip(before, after, strict=True))
    print(json.dumps({"process": common, "host": of_host}))


if __name__ == "__main__":
    main()
