"""The recipe: YAML <-> validated data that knows its lines."""
