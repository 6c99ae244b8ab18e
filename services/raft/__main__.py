"""Start the raft process."""

from services.kit.lifecycle.process import run_process
from services.raft.config import RaftSettings
from services.raft.shell.app import RaftApp

if __name__ == "__main__":
    run_process("raft", RaftSettings, RaftApp)
