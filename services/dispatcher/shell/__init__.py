"""Sockets, timers and proposals of the dispatcher; decides nothing."""
