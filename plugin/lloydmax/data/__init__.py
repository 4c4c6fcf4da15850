"""Unlabelled data in any form, as inputs of a model with random access."""

from .batch import Batch
from .capture import Captured, capture_inputs
from .image_folder import ImageFolder, image_channels, images
from .inputs import Inputs, inputs_of
from .opening import unlabelled
from .randomness import random_order, split
from .sources import ArraySource, DatasetSource, Source
from .spooled import BatchSource, spool

__all__ = [
    "ArraySource",
    "Batch",
    "BatchSource",
    "Captured",
    "DatasetSource",
    "ImageFolder",
    "Inputs",
    "Source",
    "capture_inputs",
    "image_channels",
    "images",
    "inputs_of",
    "random_order",
    "split",
    "spool",
    "unlabelled",
]
