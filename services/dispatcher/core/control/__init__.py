"""Answers to users: each function takes a picture and a request and returns what to read out, or the writes to make.

Raises typed errors; never waits. The shell reads at the right version, proposes the writes, and asks again when others were faster.
"""
