"""Core ML: palettized weights in an ``.mlpackage``, through the compression metadata that coremltools documents.

coremltools reads buffers named ``_COREML_/<parameter>/...`` beside a dense parameter and writes its codes and lookup
table (``constexpr_lut_to_dense``) in place of its values.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import ExportError
from lloydmax.exporting.formats import Format
from lloydmax.exporting.subject import Subject
from lloydmax.runtime.quiet import quiet
from lloydmax.student.attachment import codebooks
from lloydmax.student.layers import CodebookLayer

_SIZES = (2, 4, 8, 16, 64, 256)
"""Entries that a lookup table of Core ML may have."""
_PALETTIZATION = 2
"""Number of this kind of compression in coremltools' metadata."""


@dataclass(frozen=True)
class To(Format):
    """For iOS 18, macOS 15 and newer. Parameters of one axis, such as biases, stay dense.

    coremltools compares every weight of a parameter with all of its centroids at once, so that the conversion takes
    about ``8 * weights * centroids`` bytes of memory for the largest parameter.

    Attributes:
        precision: of computations and lookup tables: ``"float16"``, which the Neural Engine runs, or ``"float32"``.
        most: largest number of samples of a dynamic batch.
    """

    packages: ClassVar[tuple[str, ...]] = ("coremltools",)
    precision: str = "float16"
    most: int = 64

    def refuse(self, subject: Subject) -> None:
        """More than 256 centroids, blocks over several axes, bfloat16, an unknown precision."""
        if self.precision not in ("float16", "float32"):
            raise ExportError(f"precision is 'float16' or 'float32', not {self.precision!r}")
        subject.refuse_dtypes(torch.bfloat16, name="Core ML")
        for name, codebook in palettized(subject.model).items():
            if codebook.k > _SIZES[-1]:
                raise ExportError(
                    f"{name} has {codebook.k} centroids; a lookup table of Core ML has at most 256 entries: compress "
                    "with centroids: 256, or without a recipe at 7 bits or fewer"
                )
            if codebook.block > 1 and vector_axis(codebook) is None:
                raise ExportError(
                    f"{name}, shape {codebook.shape}, has blocks of {codebook.block} weights; those of lookup tables "
                    "of Core ML lie along one axis"
                )

            layout = codebook.layout
            if layout.runs > 1:
                raise ExportError(
                    f"{name} has granularity {layout.granularity}, a grid for each few weights; lookup tables of "
                    "Core ML are shared by whole channels: compress it with granularity: channel"
                )
            if layout.channels is not None and layout.matrices not in (1, codebook.shape[0]):
                raise ExportError(
                    f"{name}, shape {codebook.shape}, holds {layout.matrices} matrices of several rows; lookup tables "
                    "of Core ML go along axes: compress it with granularity: tensor"
                )

    def write(self, subject: Subject, path: Path) -> None:
        """Convert, and check that every palettized weight of the program became a lookup table."""
        with quiet():
            import coremltools

            model = copy.deepcopy(subject.model)
            tables = palettized(model)
            _register(model, tables)
            program = replace(subject, model=model).program(self.most).run_decompositions({})
            converted = coremltools.convert(
                program,
                minimum_deployment_target=coremltools.target.iOS18,
                compute_precision=getattr(coremltools.precision, self.precision.upper()),
                skip_model_load=True,
            )
            used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
            parameters = program.graph_signature.inputs_to_parameters
            wanted = {name for node, name in parameters.items() if node in used and name in tables}
            found = operations(converted).count("constexpr_lut_to_dense")
            if found < len(wanted):
                raise ExportError(f"coremltools wrote {found} lookup tables for {len(wanted)} palettized parameters")
            converted.save(str(path))


def palettized(model: nn.Module) -> dict[str, Codebook]:
    """The codebooks that become lookup tables, by parameter name."""
    return {name: codebook for name, codebook in codebooks(model).items() if len(codebook.shape) > 1}


def operations(model: Any) -> list[str]:
    """The types of all operations in the main function of a Core ML model."""
    main = model.get_spec().mlProgram.functions["main"]
    return [operation.type for block in main.block_specializations.values() for operation in block.operations]


def vector_axis(codebook: Codebook) -> int | None:
    """The axis of the weight along which its blocks lie; ``None`` where they span several."""
    apart = {codebook.axis, 0} if codebook.layout.matrices > 1 else {codebook.axis}
    sizes = [(axis, size) for axis, size in enumerate(codebook.shape) if axis not in apart and size > 1]
    return sizes[-1][0] if sizes and sizes[-1][1] % codebook.block == 0 else None


def table(codebook: Codebook) -> Tensor:
    """The lookup table ``(*axes, entries, block)`` of a codebook.

    ``axes`` are 1, but for the axis of the output channels where these do not share one table; entries are padded to
    2, 4, 8, 16, 64 or 256 by repeating the last centroid.
    """
    rows = codebook.centroids.reshape(-1, codebook.k, codebook.block)
    if codebook.layout.channels is not None:
        rows = rows[codebook.layout.owners()]
    entries = next(size for size in _SIZES if size >= codebook.k)
    padded = torch.cat([rows, rows[:, -1:].expand(-1, entries - codebook.k, -1)], 1)
    axes = [1] * len(codebook.shape)
    if codebook.layout.channels is not None:
        axes[0], axes[codebook.axis] = codebook.layout.matrices, codebook.shape[codebook.axis]
    return padded.reshape(*axes, entries, codebook.block)


def _register(model: nn.Module, tables: dict[str, Codebook]) -> None:
    """Make every parameter dense again, in place, with the metadata beside it."""
    dense: dict[int, nn.Parameter] = {}

    def parameter(holder: Any, value: Tensor) -> nn.Parameter:
        return dense.setdefault(id(holder), nn.Parameter(value.detach().clone(), requires_grad=False))

    for module in list(model.modules()):
        if isinstance(module, CodebookLayer):
            for leaf, tensor in list(module.codebooks.items()):
                del module.codebooks[leaf]
                module._parameters[leaf] = parameter(tensor, tensor())
        elif parametrize.is_parametrized(module):
            chains: Any = module.parametrizations
            held = {leaf: (chain[0], getattr(module, leaf)) for leaf, chain in chains.items()}
            # not remove_parametrizations, which changes the class: other copies of the module have the same one
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module._modules["parametrizations"]
            for leaf, (holder, value) in held.items():
                module._parameters[leaf] = parameter(holder, value)
    for name, codebook in tables.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        module.register_buffer(f"_COREML_/{leaf}/lut", table(codebook))
        module.register_buffer(f"_COREML_/{leaf}/compression_type", torch.tensor([_PALETTIZATION]))
        if codebook.block > 1:
            module.register_buffer(f"_COREML_/{leaf}/vector_axis", torch.tensor(vector_axis(codebook)))
    model.register_buffer("_COREML_/metadata_version", torch.tensor(1))
