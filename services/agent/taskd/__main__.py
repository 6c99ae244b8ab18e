"""Start taskd by path: ``python -I -S -E …/taskd/__main__.py --tasks-dir=… --socket=…``. Started by the process driver only."""

import os
import sys

# Last in line, so that nothing in this tree or beside it can stand in for a module of the standard library.
sys.path.append(os.path.abspath(f"{__file__}/../../../.."))

from services.agent.taskd.daemon import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
