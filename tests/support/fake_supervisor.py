"""A supervisor process with fake children and the real ca, for tests that kill it: ``python fake_supervisor.py <state> <host:port>``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from services.supervisor.config import settings_from
from services.supervisor.shell.children import python_module
from services.supervisor.shell.run import run_node

FAKE_CHILD = str(Path(__file__).parent / "fake_child.py")


def command(name: str) -> list[str]:
    """Return the command line of a child."""
    return python_module(name) if name == "ca" else [sys.executable, FAKE_CHILD, name]


if __name__ == "__main__":
    settings = settings_from({"state_dir": sys.argv[1], "listen_remote_api": sys.argv[2]}, None)
    code, reason = run_node(settings, command)
    sys.stderr.write(reason)
    sys.exit(code)
