"""The claim to the well-known control socket, on a real file system."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from services.gateway.shell.well_known import claim, release


def listening(path: Path) -> socket.socket:
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(path))
    door.listen()
    return door


def test_the_first_node_of_a_host_is_found_there(tmp_path: Path) -> None:
    link = tmp_path / "swarmbus" / "control.sock"
    with listening(tmp_path / "n1.sock"):
        assert claim(str(tmp_path / "n1.sock"), link)
        assert claim(str(tmp_path / "n1.sock"), link), "claiming twice is no harm"
        assert link.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(link))


def test_a_living_claim_is_left_alone_and_a_dead_one_replaced(tmp_path: Path) -> None:
    link = tmp_path / "control.sock"
    first, second = tmp_path / "n1.sock", tmp_path / "n2.sock"
    with listening(first):
        claim(str(first), link)
        assert not claim(str(second), link)
        assert os.readlink(link) == str(first)
    assert claim(str(second), link)
    assert os.readlink(link) == str(second)


def test_only_ones_own_claim_is_released(tmp_path: Path) -> None:
    link = tmp_path / "control.sock"
    with listening(tmp_path / "n1.sock"):
        claim(str(tmp_path / "n1.sock"), link)
        release(str(tmp_path / "n2.sock"), link)
        assert link.is_symlink()
    release(str(tmp_path / "n1.sock"), link)
    release(str(tmp_path / "n1.sock"), link)
    assert not link.is_symlink()


def test_a_directory_that_is_a_link_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "swarmbus").symlink_to(tmp_path / "elsewhere")
    assert not claim(str(tmp_path / "n1.sock"), tmp_path / "swarmbus" / "control.sock")
    assert not (tmp_path / "elsewhere" / "control.sock").is_symlink()
