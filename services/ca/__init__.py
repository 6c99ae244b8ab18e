"""The ca process: the only place that signs; see README.md."""
