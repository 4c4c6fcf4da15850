"""Unlabelled data in any form, as inputs of a model with random access."""

from lloydmax.data.batch import Batch
from lloydmax.data.capture import Captured, capture_inputs
from lloydmax.data.datasets import DatasetSource
from lloydmax.data.image_folder import ImageFolder, image_channels, images
from lloydmax.data.inputs import Inputs, inputs_of
from lloydmax.data.kept import BatchSource, spool
from lloydmax.data.opening import unlabelled
from lloydmax.data.own_preparation import own_preparation
from lloydmax.data.part import Part, even
from lloydmax.data.randomness import random_order, split
from lloydmax.data.sound_files import Sounds, sounds
from lloydmax.data.sources import ArraySource, Source
from lloydmax.data.texts import Texts, texts

__all__ = [
    "ArraySource",
    "Batch",
    "BatchSource",
    "Captured",
    "DatasetSource",
    "ImageFolder",
    "Inputs",
    "Part",
    "Sounds",
    "Source",
    "Texts",
    "capture_inputs",
    "even",
    "image_channels",
    "images",
    "inputs_of",
    "own_preparation",
    "random_order",
    "sounds",
    "split",
    "spool",
    "texts",
    "unlabelled",
]
