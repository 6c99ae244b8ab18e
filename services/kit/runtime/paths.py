"""Well-known places of a host. The gateway claims the control socket here; clients look for it here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def well_known_socket() -> Path:
    """Return where the control socket of this user's first node is found: a symbolic link that its gateway keeps.

    Root: ``/run/swarmbus/control.sock``. Others: in ``$XDG_RUNTIME_DIR/swarmbus``, else in ``swarmbus-<uid>`` under the
    directory for temporary files.
    """
    if os.geteuid() == 0:
        return Path("/run/swarmbus/control.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime:
        return Path(runtime) / "swarmbus" / "control.sock"
    return Path(tempfile.gettempdir()) / f"swarmbus-{os.geteuid()}" / "control.sock"
