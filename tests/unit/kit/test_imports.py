"""What a short command does not pay for: libraries that only some processes need are loaded where they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["services.kit.bus.zmq", "services.kit.bus.memory", "services.kit.runtime.log"])
def test_certificates_and_the_log_are_not_loaded_before_they_are_used(module: str) -> None:
    script = f"import sys, {module}; print(*sorted(set(sys.modules) & {{'cryptography', 'loguru', 'pydantic'}}))"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
