"""The scheduler's engine: an incremental index of the fleet, and exact planners on it. No I/O, no clock, no randomness but a seed."""
