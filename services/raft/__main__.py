"""Start the raft process."""

from services.kit.lifecycle.process import run_process
from services.raft.config import RaftSettings
from services.raft.shell.app import RaftApp
from services.raft.shell.calm import keep_calm

if __name__ == "__main__":
    keep_calm()
    run_process("raft", RaftSettings, RaftApp)
