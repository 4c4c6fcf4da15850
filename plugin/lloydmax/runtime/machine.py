"""What a machine and its settings add to a result: the same work in other orders of summation gives other last bits."""

from __future__ import annotations

import platform
from typing import Any

import torch

from lloydmax.runtime import processes


def arithmetic(device: torch.device) -> list[Any]:
    """What the bytes of a computation on this device depend on beside the program, as plain data.

    The modes of the caller's thread (default dtype and device, autocast, gradients) are not among it: all work is done
    in modes of our own.
    """
    told: list[Any] = [
        device.type, processes.size(), _precisions(),
        torch.are_deterministic_algorithms_enabled(), platform.machine(), torch.backends.cpu.get_cpu_capability(),
        torch.backends.mkldnn.enabled,
    ]  # fmt: skip
    if device.type == "cpu":
        return [*told, torch.get_num_threads()]
    if device.type == "cuda":
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        told += [
            torch.cuda.get_device_name(device), torch.version.cuda, cudnn.version(), cudnn.enabled, cudnn.benchmark,
            cudnn.deterministic, matmul.allow_fp16_reduced_precision_reduction,
            matmul.allow_bf16_reduced_precision_reduction, torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(), torch.backends.cuda.math_sdp_enabled(),
        ]  # fmt: skip
    return told


def is_x86() -> bool:
    """Whether this is an x86 processor."""
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686", "x86")


def has_vnni() -> bool:
    """Whether it adds up products of bytes in 32 bits (AVX-512 VNNI); true where torch cannot tell."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: True)())


def saturates() -> bool:
    """Whether int8 kernels add pairs of products in 16 bits here: they hold 8-bit activations times weights of 7 bits,
    but not of 8."""
    return is_x86() and not has_vnni()


def weight_bits() -> int:
    """Bits of a weight that int8 kernels multiply rightly here: 8, or 7."""
    return 7 if saturates() else 8


OVERFLOWS = "this CPU lacks VNNI: its int8 kernels add pairs of products in 16 bits, which 8-bit weights may overflow"
"""Why :func:`weight_bits` are 7, for people."""


def _precisions() -> list[str | bool]:
    """How exact float32 is, by default and in every backend. Where torch has a setting for each of them, only these are
    read: the old ones, which set them too, raise as soon as they do not tell all."""
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return [torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32]
    kinds = [getattr(backends.cudnn, name, None) for name in ("conv", "rnn")]
    kinds += [getattr(backends.mkldnn, name, None) for name in ("matmul", "conv", "rnn")]
    told = [str(getattr(part, "fp32_precision", "none")) for part in (backends, backends.cuda.matmul, *kinds)]
    return ["ieee" if one == "none" else one for one in told]
