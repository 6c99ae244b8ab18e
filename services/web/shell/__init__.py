"""The web process outside: sockets, requests, streams."""
