"""``supervisor raft …``: hands everything to the raft process's own tool, in a process of its own, because processes never import one another."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

from services.kit.lifecycle.settings import ENVIRONMENT_PREFIX
from services.supervisor.config import settings_from

MODULE = "services.raft.tool"


def add(verbs: Any) -> argparse.ArgumentParser:
    """Add the verb to the parser of `supervisor`; what follows it is read by the tool."""
    told = "look into this manager's part of the store: status, log, snapshot, verify, recover"
    parser: argparse.ArgumentParser = verbs.add_parser("raft", help=told, add_help=False, prefix_chars="\0")
    parser.set_defaults(verb=run)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def run(parsed: argparse.Namespace) -> tuple[int, str]:
    """Run the tool; its exit code and its words are ours."""
    state_dir = str(settings_from({}, None).state_dir)
    environment = {**os.environ, f"{ENVIRONMENT_PREFIX}STATE_DIR": state_dir}
    done = subprocess.run([sys.executable, "-P", "-m", MODULE, *parsed.rest], env=environment, check=False)
    return done.returncode, ""
