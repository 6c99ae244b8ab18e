"""Files and directories, without the megabyte that shutil would cost."""

from __future__ import annotations

import os
from contextlib import suppress


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it; what cannot be removed stays. Links are removed, never followed."""
    for folder, directories, files in os.walk(path, topdown=False):
        for name in files:
            with suppress(OSError):
                os.unlink(f"{folder}/{name}")
        for name in directories:
            target = f"{folder}/{name}"
            with suppress(OSError):
                os.unlink(target) if os.path.islink(target) else os.rmdir(target)
    with suppress(OSError):
        os.rmdir(path)
