"""The bus: calls, streams and casts between processes, over ZeroMQ or (in tests and the simulator) in memory."""
