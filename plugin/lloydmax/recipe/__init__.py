"""The recipe: YAML <-> validated data that knows its lines."""

from lloydmax.recipe.recipe import Recipe

__all__ = ["Recipe"]
