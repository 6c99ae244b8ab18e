"""Placement: which node a task goes to, or why none."""
