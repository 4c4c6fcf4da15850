"""The plan: recipe and model -> what happens to every parameter."""

from lloydmax.plan.plan import Plan, plan, verify_plan

__all__ = ["Plan", "plan", "verify_plan"]
