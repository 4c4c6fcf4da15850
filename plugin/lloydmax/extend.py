"""The one door for plugins: everything that a quantizer, a recovery step, an importance or a search method needs.

A plugin imports ``lloydmax`` and ``lloydmax.extend`` and nothing else of ours; the built-in strategies are written the
same way, so their modules are examples. ``lloydmax`` itself has ``hookimpl``, ``Codebook``, ``codebooks`` and the
errors. What is here keeps its meaning from one version to the next as the rest of the public interface does.

What you write (a class with pydantic ``Options``; ``lloydmax.hookimpl`` registers it)
    Quantizer             weight -> codebook
    RecoveryStep          wins accuracy back; gets a Recovery
    Importance            how much the error of each weight matters
    SearchMethod          chooses centroids under a budget
    Recovery              student, teacher, data, seed, events: what a step works on, and what it may keep
    register              add a plugin by hand, in a notebook or a test
    unregister            take it away again

A step that learns from the teacher's outputs
    TrainingLoop          epochs, best state, resuming, processes: subclass it, say what the loss is
    LoopOptions           the options that it has, to inherit yours from

Inputs
    Source                unlabelled samples: draw, split, read in batches, run a model on them
    Batch                 the inputs of one call of a model

Outputs
    Targets               what the teacher gives, computed once where it can be
    Comparison            student against teacher on the same inputs
    Agreement             what it measures
    Outputs               how what the models return is read: samples first, without padding, and what it tells
    output_tensors        the tensors that count in what a model returns, as it returns them
    divergences           the Kullback-Leibler divergence of every decision
    fisher_draw           a random scalar whose gradients tell the Fisher information

Codebooks
    Layout                shape, centroids, granularity, axis and block of a weight, and what follows from them
    Granularity           the type of an option that says what shares a codebook
    Blocks                blocks of weights as points: nearest centroids, distances, how many differ
    code_dtype            the dtype of codes
    even                  scale and zero point of a codebook that is a grid
    cheapest              which centroid a weight chooses where bits have a price

What a student holds, as long as it is trained
    attached              every parameter that a codebook holds: name, module, codes, centroids
    CodebookWeight        the codes of one
    FakeQuantizers        thresholds, observers and int8 weights of a model that a host has prepared
    TrainedThreshold      one of the thresholds

Facts about a network
    Network               a traced model: its graph, the batch norms behind its layers, the links between these
    Link                  two layers between which channels can be scaled
    Channels              the channels of a layer, and its weight seen by them
    fold_batch_norms      merge batch norms into the layers before them
    folded                what was merged
    Moments               mean and variance of what reaches a layer, merged over batches
    statistics_gap        how far a batch is from what a batch norm keeps; differentiable

The problem of a search
    Unit                  what gets one number of centroids, with its options
    smallest              the choice with the fewest bytes, or BudgetError

How a model is run
    evaluating            in evaluation mode without gradients, and as it was afterwards
    evaluation_mode       the same with gradients
    device_of             where a model is
    spelling_hint         "; did you mean ...?" for messages
"""

from lloydmax import native as native
from lloydmax.codebook.blocks import Blocks
from lloydmax.codebook.cheapest import cheapest
from lloydmax.codebook.grid import even
from lloydmax.codebook.layout import Granularity, Layout, code_dtype
from lloydmax.data import Batch, Source
from lloydmax.hooks.protocols import Importance, Quantizer, Recovery, RecoveryStep, SearchMethod
from lloydmax.hooks.registry import register, spelling_hint, unregister
from lloydmax.hooks.units import Unit, smallest
from lloydmax.network.batch_norm import Moments, statistics_gap
from lloydmax.network.channels import Channels
from lloydmax.network.folding import fold_batch_norms, folded
from lloydmax.network.graph import Link, Network
from lloydmax.network.layers import multiplied as multiplied
from lloydmax.network.outputs import Leaf as Leaf
from lloydmax.network.outputs import Outputs
from lloydmax.network.outputs import class_axis as class_axis
from lloydmax.network.outputs import comparable as comparable
from lloydmax.network.trees import output_tensors
from lloydmax.recovery.options import LoopOptions
from lloydmax.recovery.training import TrainingLoop
from lloydmax.runtime.modes import device_of, evaluating, evaluation_mode
from lloydmax.student.attachment import CodebookWeight, attached
from lloydmax.student.observers import FakeQuantizers
from lloydmax.student.thresholds import TrainedThreshold
from lloydmax.teacher.agreement import Agreement, Comparison, divergences
from lloydmax.teacher.agreement import differences as differences
from lloydmax.teacher.fisher import fisher_draw
from lloydmax.teacher.fisher import fisher_draws as fisher_draws
from lloydmax.teacher.kept import Targets

__all__ = [  # noqa: RUF022
    # What you write
    "Quantizer",
    "RecoveryStep",
    "Importance",
    "SearchMethod",
    "Recovery",
    "register",
    "unregister",
    # A step that learns from the teacher's outputs
    "TrainingLoop",
    "LoopOptions",
    # Inputs
    "Source",
    "Batch",
    # Outputs
    "Targets",
    "Comparison",
    "Agreement",
    "Outputs",
    "output_tensors",
    "divergences",
    "fisher_draw",
    # Codebooks
    "Layout",
    "Granularity",
    "Blocks",
    "code_dtype",
    "even",
    "cheapest",
    # What a student holds
    "attached",
    "CodebookWeight",
    "FakeQuantizers",
    "TrainedThreshold",
    # Facts about a network
    "Network",
    "Link",
    "Channels",
    "fold_batch_norms",
    "folded",
    "Moments",
    "statistics_gap",
    # The problem of a search
    "Unit",
    "smallest",
    # How a model is run
    "evaluating",
    "evaluation_mode",
    "device_of",
    "spelling_hint",
]
