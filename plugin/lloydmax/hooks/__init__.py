"""Hooks: what a plugin can offer and hear, and who offers it."""
