"""A process's life: settings, start, ready, drain, exit code."""
