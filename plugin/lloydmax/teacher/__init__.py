"""The teacher: the original, its outputs, and how others agree with it."""

from lloydmax.teacher.agreement import Agreement
from lloydmax.teacher.fitness import Fitness, data_fitness
from lloydmax.teacher.synthesis import synthesize

__all__ = ["Agreement", "Fitness", "data_fitness", "synthesize"]
