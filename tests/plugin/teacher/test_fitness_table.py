"""The table of the fitness of sets of inputs."""

from __future__ import annotations

from lloydmax.runtime.text import render
from lloydmax.teacher.fitness import Fitness
from lloydmax.teacher.fitness_table import fitness_table


def test_a_set_has_a_line_with_what_is_known_of_it() -> None:
    text = render(fitness_table([Fitness("a", 1234, 0.01234, {}, 0.5, 0.25), Fitness("b", 2, None, {}, None, None)]))
    (first,) = (line for line in text.splitlines() if "1,234" in line)
    (second,) = (line for line in text.splitlines() if line.rstrip(" │").endswith(" 2"))
    assert all(word in first for word in ("a", "0.0123", "50.0", "25.0")) and "–" in second and "None" not in text
    assert "By distance of batch-norm statistics" in " ".join(text.split())


def test_without_batch_norm_the_classes_decide() -> None:
    text = render(fitness_table([Fitness("b", 2, None, {}, 0.75, 0.5)]))
    assert "has no batch norm" in " ".join(text.split()) and "–" in text and "75.0" in text
