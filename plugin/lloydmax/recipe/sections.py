"""The sections of a recipe as validated data, and their places in its file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from lloydmax.data.profile import MOST_PLACES, Profile
from lloydmax.network.kinds import Kinds
from lloydmax.network.outputs import AskedOutputs, OutputPath
from lloydmax.recipe.lines import LinedData
from lloydmax.recipe.search import Search
from lloydmax.recipe.space import Space, put, written
from lloydmax.teacher.asking import Wanted

KEEP = "none"
"""The reserved quantizer name that leaves a parameter as it is."""


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", strict=False)


class Rule(Section):
    """One rule of `quantize`. Every further key is an option of the quantizer (for kmeans: centroids, granularity).

    A list in place of a single option value is a choice that a tuning loop resolves.
    """

    model_config = ConfigDict(extra="allow")

    layers: str | int | list[str | int] = Field(
        description="`all`: every convolution and linear layer, and every other weight whose output axis is known; a "
        "range such as `14-15`, counted from 1 over the convolution and linear layers that pass "
        "`types` and `except`, in the order of registration, or of the forward pass if `example_inputs` are given; a "
        "module name (`''` is the model itself); a glob (`layer3.*.conv?`, never normalization layers unless `types` "
        "names them); or a list of these.",
    )

    types: list[str] = Field(default=[], description="only these classes of modules, by name; base classes count.")

    except_: list[str] = Field(default=[], alias="except", description="module names or globs to leave out.")

    parameter: str = Field(
        default="weight",
        description="name within the module, or a glob such as `weight_ih_*`; `weight` means every weight of a known "
        "layout, whatever its name; a buffer needs its exact name.",
    )

    quantizer: str = Field(default="kmeans", description="a registered quantizer, or `none`: leave it as it is.")

    importance: str | None = Field(
        default=None, description="a registered importance, which weights the squared errors of the fit."
    )

    @property
    def selectors(self) -> list[str]:
        """``layers`` as a list of strings."""
        return [str(item) for item in (self.layers if isinstance(self.layers, list) else [self.layers])]

    @property
    def options(self) -> dict[str, Any]:
        """The quantizer's options, as written."""
        return dict(self.__pydantic_extra__ or {})


class Step(Section):
    """One recovery step; every further key is an option of that step."""

    model_config = ConfigDict(extra="allow")

    step: str = Field(description="a registered step.")

    @property
    def options(self) -> dict[str, Any]:
        """The step's options, as written."""
        return dict(self.__pydantic_extra__ or {})


class Activations(Section):
    """8-bit activations around the quantized layers: the finished model runs on int8 kernels."""

    bits: Literal[8] = Field(default=8, description="8, which the kernels take.")

    scheme: Literal["asymmetric", "symmetric"] = Field(
        default="asymmetric",
        description="`asymmetric` uses the whole range between the least and the largest value, `symmetric` has its "
        "zero in the middle (at the lower end where nothing is negative).",
    )

    samples: int = Field(default=100, ge=1, description="unlabelled inputs from which the thresholds are initialized.")

    host: Literal["auto", "fx", "own"] = Field(
        default="auto",
        description="who prepares and runs the model: `fx` (`torch.ao.quantization`, on its kernels), `own` (plain "
        "PyTorch, on those of oneDNN), or `auto`: `fx` as long as PyTorch has it.",
    )


class Storage(Section):
    """How the file holds what is not a code, and the codes."""

    floats: Literal["float32", "float16", "bfloat16", "fixed"] = Field(
        default="float32",
        description="of centroids and of all that is not compressed. A tensor that would lose more than 2^-10 "
        "(`float16`) or 2^-8 (`bfloat16`) stays float32. `fixed`: parameters and centroids are whole numbers of a "
        "step, at most 1/32 of their usual magnitude, and finer where centroids are close or floats few "
        "(centroids: 1/1024); buffers as with `float16`.",
    )

    codes: Literal["packed", "entropy", "arithmetic"] = Field(
        default="packed",
        description="`packed` (fixed width), `entropy` (Huffman) or `arithmetic` (adaptive, with contexts; the "
        "smallest, which takes longest to read; format 3).",
    )

    norms: Literal["kept", "merged"] = Field(
        default="kept",
        description="`merged`: of a batch norm only a scale and a shift are left, its statistics are gone.",
    )

    codebooks: Literal["float", "int8"] = Field(
        default="float",
        description="`int8`: centroids are integers times one scale for each codebook, where that is smaller.",
    )

    layout: Literal["named", "compact", "tight"] = Field(
        default="named",
        description="`named` (tensors under their own names), `compact` (one array and a deflated table; no bytes "
        "for constant tensors) or `tight` (the same with two checksums and a shorter table, and with `fixed` floats as "
        "one arithmetic code; format 3).",
    )

    @property
    def float_bytes(self) -> int:
        """Bytes of one stored floating-point centroid."""
        return {"float16": 2, "fixed": 1}.get(self.floats, 4)


class Synthesize(Section):
    """Inputs that are made where none are given: noise that is like pictures, sounds or texts."""

    samples: int = Field(
        default=64,
        ge=2,
        le=65536,
        description="inputs, fewer where they are large; half as many of another kind are "
        "made on which the agreement is measured.",
    )

    kind: Literal["natural", "matched", "noise", "written"] = Field(
        default="natural",
        description="`natural`: pictures of things in front of each other, sounds with harmonics, words as often as in "
        "texts; `matched`: pictures of things, moved until the batch norms get the statistics that they keep; "
        "`noise`: few things on regions, noise with the spectrum of sounds, words that are all as likely; "
        "`written`: texts that the model itself writes, token by token, where it is a language model, else `natural`.",
    )

    shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        max_length=8,
        description="of one sample of the only input; default: those of the `example_inputs`, or one that the first "
        "layers ask for and the model takes.",
    )

    below: int | None = Field(
        default=None,
        ge=1,
        description="with `shape`: whole numbers, less than this, which tables take that are larger.",
    )

    mean: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="with `shape`, of real numbers; the first batch norm knows better.",
    )

    deviation: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="the same.")

    means: list[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        default=None,
        min_length=2,
        max_length=MOST_PLACES,
        description="in place of `mean`: of the places along the last axis that is so long, such as the coefficients "
        "of a sound.",
    )

    deviations: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = Field(
        default=None,
        min_length=1,
        description="with `means`: the same, or a single one for all places.",
    )

    def given(self) -> Wanted:
        """The same for those who make them."""
        shape = None if self.shape is None else tuple(self.shape)
        profile = None if self.means is None else Profile(tuple(self.means), tuple(self.deviations or ()))
        return Wanted(self.samples, self.kind, shape, self.below, self.mean, self.deviation, profile)

    @model_validator(mode="after")
    def _of_a_shape(self) -> Synthesize:
        names = ("below", "mean", "deviation", "means", "deviations")
        told = next((name for name in names if getattr(self, name) is not None), None)
        if told is not None and self.shape is None:
            raise ValueError(f"'{told}' is of an input of a 'shape', which is missing")
        if (self.means is None) is not (self.deviations is None):
            raise ValueError("'means' and 'deviations' are given together")
        if self.means is not None and self.deviations is not None and self.shape is not None:
            if len(self.means) not in self.shape:
                raise ValueError(f"'means' has {len(self.means)} numbers, as no axis of 'shape' has places")
            if len(self.deviations) not in (1, len(self.means)):
                raise ValueError(f"'deviations' has {len(self.deviations)} numbers: give 1, or {len(self.means)}")
        return self


def _one_line(name: str) -> str:
    if len(f"{name}x".splitlines()) > 1 or "\t" in name:
        raise ValueError("must be one line of text")
    return name


class RecipeFields(Section):
    """The fields of a recipe, and where they stand in its file."""

    TRAINABLE: ClassVar[tuple[str, ...]] = ("unquantized", "codebooks", "biases", "norms", "all", "none")

    version: Literal[1] = Field(default=1, description="of the format.")

    name: Annotated[str, AfterValidator(_one_line)] = Field(
        default="unnamed", max_length=200, description="for plans, reports and messages."
    )

    quantize: list[Rule] = Field(min_length=1, description="rules; for each parameter the last matching one wins.")

    bits: float | None = Field(
        default=None,
        gt=0,
        le=32,
        description="size of the whole file, in bits for each parameter of the original. Codes are then entropy "
        "coded, and one price of a bit is found for all layers at which the file gets this size: layers get bits "
        "where the rules' `importance` says that these matter most; `centroids` is the most that a codebook may have.",
    )

    activations: Activations | None = Field(
        default=None,
        description="8-bit activations around all layers of the rules: the model then runs on int8 kernels.",
    )

    trainable: list[str] = Field(
        default=["unquantized"],
        description="any of `unquantized`, `codebooks`, `biases`, `norms`, `all`, `none`, module names, globs.",
    )

    recover: list[Step] = Field(default=[], description="recovery steps, in order.")

    keep: Literal["all", "best"] = Field(
        default="all",
        description="`best`: on inputs that are held out, several ways to spend the `bits` are compared, and "
        "the best is taken; and each recovery step is undone where it did not bring the "
        "outputs nearer to the original's. The report says what was kept. `all`: everything is done as it is written.",
    )

    synthesize: Synthesize | None = Field(
        default=None,
        description="make inputs where no data are given, so that importances and recovery steps work without.",
    )

    output: OutputPath | None = Field(
        default=None,
        description="path of the output that counts wherever outputs are compared: keys, attributes or positions "
        "with dots between (`logits`, `heads.cls`, `'1.0'`); of a part with several tensors all count. Default: "
        "`logits` where there are such at the top, else every floating tensor that has an entry for each sample. A "
        "step's own `output` goes before it.",
    )

    classes: int | Literal["auto"] | None = Field(
        default="auto",
        description="axis of the output's classes, counted from 0 with that of the samples; `null`: it has none. "
        "`auto`: 1 of `(N, C)` and `(N, C, H, W)`, the last of `(N, T, C)`, where the samples are taken as the first "
        "axis wherever the model has them.",
    )

    mask: str | None = Field(
        default="auto",
        description="name of the input `(N, T)` whose zeros are padding, of which outputs `(N, T, C)` do not count; "
        "`null`: all count. `auto`: `attention_mask`, `padding_mask`, or `src_key_padding_mask` and "
        "`key_padding_mask`, which are true at padding; of models with a decoder its own, or what the labels tell.",
    )

    kinds: Kinds | None = Field(
        default=None,
        description="what outputs tell: `classes`, `scores` (independent ones), `values` (a regression), `text` (a "
        "class at every place of a sequence), `unclear` (taken as values), or `ignore` (it does not count). One word "
        "for all, or words by the path of an output or of a part of one: `{boxes: values, '0[:, 4:22]': scores}`. "
        "Default: their values on the data tell.",
    )

    storage: Storage = Field(default_factory=Storage, description="how the file is written.")

    search: Search | None = Field(default=None, description="what `lloydmax search` looks for.")

    requires: list[str] = Field(
        default=[],
        max_length=100,
        description="distributions that must be installed, such as `lloydmax>=0.1`, checked first.",
    )

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="of all randomness: the same recipe, data and seed give the same bytes on the same machine.",
    )

    _document: LinedData = PrivateAttr(default_factory=lambda: LinedData(None))
    _space: Space = PrivateAttr(default_factory=Space)

    @property
    def space_of_fields(self) -> Space:
        """Choices and ranges, but for lists that are options of a strategy; the fields have the first value of each."""
        return self._space

    def data(self) -> dict[str, Any]:
        """The recipe as plain data: what was written, without the defaults."""
        found = self.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"version": self.version}
        for where, values in self._space.items():
            found = put(found, where, written(values))
        return found

    @property
    def asked_outputs(self) -> AskedOutputs:
        """What it says about the outputs."""
        return AskedOutputs(self.output, self.classes, self.mask, self.kinds, self.at)

    def at(self, *where: str | int) -> str:
        """File, line and field of a part of this recipe, for messages."""
        return self._document.at(where)
