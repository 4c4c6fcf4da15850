"""Hooks: what a plugin can offer and hear, and who offers it."""

from lloydmax.hooks.hookspecs import hookimpl

__all__ = ["hookimpl"]
