"""The options that every step with a training loop has."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from lloydmax.network.outputs import OutputPath


class LoopOptions(BaseModel):
    """Options that the loop itself has; a step's own come on top."""

    model_config = ConfigDict(extra="forbid")

    output: OutputPath | None = Field(None, description="path of the output to mimic; default: the recipe's.")
    epochs: PositiveInt = Field(10, le=10**6, description="passes over the data.")
    steps: Annotated[PositiveInt, Field(le=10**9)] | None = Field(
        None, description="optimizer steps, instead of `epochs`."
    )
    batch_size: PositiveInt = Field(128, description="samples of one step.")
    samples: PositiveInt | None = Field(None, description="use at most so many inputs, drawn at random.")
    held_out: float = Field(
        0.05, ge=0, le=0.5, description="share of the inputs (at most 1,000) kept aside to choose the best state."
    )
    patience: PositiveInt | None = Field(
        None, description="stop after so many epochs without a better state; `null`: never."
    )


class LoopSettings(Protocol):
    """What the loop looks at in the options of a step; ``patience`` may be missing."""

    output: str | int | None
    epochs: int
    steps: int | None
    batch_size: int
    samples: int | None
    held_out: float

    def model_dump_json(self) -> str:
        """All of them as text: a run goes on only where they are the same."""
