"""The data plane: a small process of its own that carries the bytes of published ports. Standard library only."""
