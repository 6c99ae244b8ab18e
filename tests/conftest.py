"""What holds for every test: what a file's tests leave behind is charged to that file, not to whoever runs when it is collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_for_the_collector() -> Iterator[None]:
    """Collect after each file, so that an unclosed socket or loop is reported where it was made."""
    yield
    gc.collect()
