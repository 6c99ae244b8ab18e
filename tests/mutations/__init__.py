"""Planted bugs: a list of small mutations, and a tool that applies each to a copy of the tree and sees which test finds it. Never shipped."""
