"""The supervisor process: a node's life, its children, its identity; see README.md."""
