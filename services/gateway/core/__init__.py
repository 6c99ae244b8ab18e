"""Decisions of the gateway, without sockets, clocks or waiting."""
