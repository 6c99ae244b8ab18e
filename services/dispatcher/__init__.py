"""The dispatcher process: control API, control loops, scheduler, agent sessions."""
