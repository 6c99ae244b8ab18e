"""Be a supervisor with settings from the environment; ``supervisor up`` is the same with flags."""

import sys

from services.kit.errors import InvalidArgument
from services.kit.lifecycle.exit_codes import ExitCode
from services.supervisor.config import settings_from
from services.supervisor.shell.run import run_node

if __name__ == "__main__":
    try:
        settings = settings_from({}, None)
    except InvalidArgument as error:
        sys.stderr.write(f"supervisor: {error}\n")
        sys.exit(ExitCode.USAGE)
    code, reason = run_node(settings)
    if reason:
        sys.stderr.write(f"supervisor: {reason}\n")
    sys.exit(code)
