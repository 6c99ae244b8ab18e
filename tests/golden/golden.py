"""Golden files: what a rendering looked like when somebody last looked at it. ``SWARMBUS_REWRITE_GOLDEN=1 pytest tests/golden`` rewrites
them; look at the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent
REWRITE = "SWARMBUS_REWRITE_GOLDEN"


def check_golden(name: str, text: str) -> None:
    """Compare a text with its golden file."""
    path = FOLDER / name
    if os.environ.get(REWRITE):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.is_file(), f"{name} is missing: set {REWRITE}=1 to write it"
    assert text == path.read_text(), f"{name} differs: set {REWRITE}=1 to rewrite it, then look at the difference"
