"""What the processes share, and nothing else; its rooms are listed in ARCHITECTURE.md."""
