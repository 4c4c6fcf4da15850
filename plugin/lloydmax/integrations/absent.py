"""A host that cannot be imported: which of the possible reasons it is, in one sentence."""

from __future__ import annotations

from importlib import metadata

from lloydmax.errors import IntegrationError

_LEGACY = ("torch.ao", "torch.quantization")


def absent(host: str, distributions: tuple[str, ...], extra: str, error: ImportError) -> IntegrationError:
    """The error to raise.

    Args:
        host: its name for people.
        distributions: that have it; any of them will do.
        extra: of lloydmax that installs it.
        error: what its import said.
    """
    held = next((f"{host} {version}" for name in distributions if (version := _version(name))), None)
    run = f'run: pip install "lloydmax[{extra}]"'
    if held is None:
        return IntegrationError(f"{host} is not installed; {run}")
    if any(name in str(error) for name in _LEGACY):
        return IntegrationError(
            f"{held} imports torch.ao.quantization, which this PyTorch does not have ({error}): take a PyTorch that "
            f"has it, or a newer {host}; {run}"
        )
    torch = _version("torch")
    return IntegrationError(
        f"{held} cannot be imported as lloydmax uses it, beside PyTorch {torch} ({error}): another version may; {run}"
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
