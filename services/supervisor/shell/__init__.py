"""The supervisor's outside: child processes, files, sockets, signals."""
