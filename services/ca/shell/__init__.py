"""The ca's outside: keys and certificates, files, sockets, the store."""
