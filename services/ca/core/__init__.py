"""Decisions of the ca: what a new cluster looks like, who gets which certificate."""
