"""What is said of a host that cannot be imported."""

from __future__ import annotations

import pytest
from lloydmax.integrations.absent import absent


@pytest.mark.parametrize(
    ("distributions", "error", "told"),
    [
        (("no-such-host",), ImportError("No module named 'no_such_host'"), r'^Host is not installed; run: .*\[x\]"$'),
        (("no-such-host", "torch"), ImportError("cannot import name 'A'"), r"^Host [\d.+cu]+ cannot .* PyTorch .*'A'"),
        (
            ("torch",),
            ModuleNotFoundError("No module named 'torch.ao.ns'", name="torch.ao.ns"),
            r"imports torch.ao.quantization, which this PyTorch does not have",
        ),
    ],
)
def test_the_reason_is_told(distributions: tuple[str, ...], error: ImportError, told: str) -> None:
    with pytest.raises(Exception, match=told):
        raise absent("Host", distributions, "x", error)
