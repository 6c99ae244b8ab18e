"""swarmbus: cluster orchestration as separate processes on a ZeroMQ bus. A folder here with a ``__main__.py`` is a process."""
