"""The section ``search`` of a recipe: what a budget search must keep, and how it chooses."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Budget(BaseModel):
    """What a search must keep; exactly one of the four."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    reduction: float | None = Field(
        default=None, gt=0, lt=1, description="share of the original bytes that the file saves at least, 0 to 1."
    )

    bits: float | None = Field(
        default=None, gt=0, le=10**6, description="average bits of a quantized weight at most, codebooks counted."
    )

    agreement: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="how alike the answers of both models are at least, 0 to 1: of classes the share of decisions with "
        "the teacher's top-1; the smallest file is looked for.",
    )

    bytes: int | None = Field(default=None, gt=0, lt=2**63, description="size of the file at most.")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if len(self.model_fields_set) != 1 or None in self.given:
            raise ValueError("give exactly one of reduction, bits, agreement, bytes, such as {bits: 3}")
        return self

    @property
    def given(self) -> tuple[str, float | None]:
        """The name of the one that was given, and its value."""
        name = next(iter(self.model_fields_set))
        return name, getattr(self, name)


class Search(BaseModel):
    """How `lloydmax search` chooses the centroids; every further key is an option of the search method."""

    model_config = ConfigDict(extra="allow")

    budget: Budget | None = Field(default=None, description="what must be kept.")

    method: str = Field(default="lagrangian", description="any registered search method.")

    centroids: list[Annotated[int, Field(ge=1)]] = Field(
        default=[2, 4, 8, 16, 32, 64, 128, 256],
        min_length=1,
        max_length=1000,
        description="the numbers to try where a rule has no list of its own.",
    )

    samples: int = Field(default=500, ge=1, description="unlabelled inputs that count.")

    @property
    def options(self) -> dict[str, Any]:
        """The method's options, as written."""
        return dict(self.__pydantic_extra__ or {})
