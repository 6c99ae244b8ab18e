"""Figures, printed and never asserted. Each file is one subject and runs alone: ``python -m tests.bench.store``."""
