"""Models whose parameters have codebooks of made-up centroids and codes."""

import copy

import torch
from lloydmax.checkpoint import round_floats
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import Layout, code_dtype
from lloydmax.format.record import ParameterRecord
from lloydmax.student.attachment import attach, codebooks, finish

SMALL = {
    "stem.weight": (5, "tensor"),
    "depthwise.weight": (4, "channel"),
    "depthwise.bias": (1, "tensor"),
    "padded.weight": (300, "group:3"),
    "head.0.weight": (16, "tensor"),
}
TEXT = {
    "embed.weight": (16, "tensor"),
    "attention.in_proj_weight": (7, "group:16"),
    "attention.out_proj.weight": (8, "tensor"),
    "lstm.weight_ih_l0": (4, "tensor"),
}
STORAGES = [
    {"floats": floats, "codes": codes}
    for floats in ("float32", "float16", "bfloat16")
    for codes in ("packed", "entropy")
]
TOKENS = torch.arange(30).view(2, 15)


def book(weight, k, granularity="tensor", axis=0, skew=1.0):
    generator = torch.Generator().manual_seed(weight.numel())
    shape = Layout(tuple(weight.shape), k, granularity, axis).centroids_shape
    centroids = torch.randn(shape, generator=generator).sort(-1).values.to(weight.dtype) / 4
    codes = (torch.rand(weight.shape, generator=generator) ** skew * k).to(code_dtype(k))
    return Codebook(centroids, codes, granularity, axis)


def compressed(model, books, storage=None, finished=True, skew=1.0):
    model = copy.deepcopy(model)
    for name, (k, granularity) in books.items():
        attach(model, name, book(model.get_parameter(name), k, granularity, skew=skew))
    model = finish(model) if finished else model
    round_floats(model, storage)
    return model.eval()


def parameters(model, books):
    found = codebooks(model)
    return {
        name: ParameterRecord(
            Layout(tuple(found[name].codes.shape), k, granularity),
            str(found[name].centroids.dtype).removeprefix("torch."),
        )
        for name, (k, granularity) in books.items()
    }
