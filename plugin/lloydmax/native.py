"""The compiled kernels of ``native.c``: exact in every weight, built once a process by the C compiler of the machine.

They take float32 centroids and uint8 codes on the CPU, see :func:`handles`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from lloydmax.codebook import channels_per_codebook
from lloydmax.errors import KernelError

_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_PARALLEL_FROM = 1 << 17


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, compiled by ``$CC``, or ``cc``, in about a second.

    Raises:
        KernelError: there is no working C compiler.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(prefix="lloydmax-") as folder:
        target = Path(folder) / "native.so"
        command = [*compiler, *_FLAGS, str(Path(__file__).with_name("native.c")), "-o", str(target)]
        try:
            done = subprocess.run([*command, "-fopenmp"], capture_output=True, text=True)
            if done.returncode:
                done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise KernelError(
                f"the kernel 'codes' needs a C compiler, and {compiler[0]!r} cannot be run ({error.strerror}): install "
                "gcc or clang, or name one in the environment variable CC; the kernel 'int8' needs none"
            ) from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise KernelError(f"the kernel 'codes' cannot be compiled by {shlex.join(compiler)}: {reason}")
        built = ctypes.CDLL(str(target))
    pointer, size = ctypes.c_void_p, ctypes.c_ssize_t
    built.expand.argtypes = [*[pointer] * 3, *[size] * 4, ctypes.c_int]
    built.multiply.argtypes = [*[pointer] * 4, *[size] * 5, ctypes.c_int]
    built.expand.restype = built.multiply.restype = None
    return built


def handles(centroids: Tensor, codes: Tensor, granularity: str, axis: int) -> bool:
    """Whether the kernels take these: contiguous uint8 codes and float32 centroids on the CPU, one code a weight."""
    return (
        codes.device.type == centroids.device.type == "cpu"
        and codes.dtype == torch.uint8
        and centroids.dtype == torch.float32
        and codes.dim() > 0
        and codes.is_contiguous()
        and centroids.dim() == (1 if granularity == "tensor" else 2)
        and (axis == 0 or granularity == "tensor")
    )


def expand(centroids: Tensor, codes: Tensor, granularity: str = "tensor") -> Tensor:
    """The dense weight, bit for bit what :func:`lloydmax.codebook.decode` gives.

    Args:
        centroids: ``(k,)``, or ``(codebooks, k)`` for groups of output channels; float32.
        codes: uint8, contiguous, output channels first.
        granularity: what shares a codebook.

    Raises:
        KernelError: there is no working C compiler.
    """
    return _expand(centroids.detach(), codes, channels_per_codebook(granularity) or len(codes))


def multiply(input: Tensor, centroids: Tensor, codes: Tensor, granularity: str = "tensor") -> Tensor:
    """``input @ weight.T`` without the weight; the same as the product with it up to the order of the sums.

    Args:
        input: ``(*, in_features)``, float32.
        centroids: as in :func:`expand`.
        codes: ``(out_features, in_features)``, uint8, contiguous.
        granularity: what shares a codebook.

    Returns:
        ``(*, out_features)``.

    Raises:
        KernelError: there is no working C compiler.
    """
    return _multiply(input, centroids.detach(), codes, channels_per_codebook(granularity) or len(codes))


@torch.library.custom_op("lloydmax::expand", mutates_args=(), device_types="cpu")
def _expand(centroids: Tensor, codes: Tensor, shared: int) -> Tensor:
    tables, out = centroids.contiguous(), torch.empty(codes.shape)
    rows, cols = len(codes), codes[0].numel()
    library().expand(
        codes.data_ptr(), tables.data_ptr(), out.data_ptr(), rows, cols, tables.shape[-1], shared, _threads(codes)
    )
    return out


@torch.library.custom_op("lloydmax::multiply", mutates_args=(), device_types="cpu")
def _multiply(input: Tensor, centroids: Tensor, codes: Tensor, shared: int) -> Tensor:
    tables, x = centroids.contiguous(), input.contiguous()
    rows, cols = codes.shape
    out = torch.empty(*x.shape[:-1], rows)
    places = (x.data_ptr(), codes.data_ptr(), tables.data_ptr(), out.data_ptr())
    library().multiply(*places, x.numel() // cols, rows, cols, tables.shape[-1], shared, _threads(codes))
    return out


def _threads(codes: Tensor) -> int:
    return torch.get_num_threads() if codes.numel() >= _PARALLEL_FROM else 1
