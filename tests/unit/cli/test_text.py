"""How people write durations, sizes, ports and mounts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.cli.ages import age, size, span
from services.client import text
from services.kit.errors import InvalidArgument
from services.kit.model.specs import HttpConfig, IngressConfig, Mount, PortConfig
from services.kit.model.states import BalanceAlgorithm, MountType, Protocol, PublishMode


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("0", 0), ("10", 10), ("500ms", 0.5), ("1m30s", 90), ("1h", 3600), ("2d", 172800), ("1.5s", 1.5), ("1h 2m", 3720)],
)
def test_durations(written: str, seconds: float) -> None:
    assert text.duration_s(written, "x") == pytest.approx(seconds)


@pytest.mark.parametrize(("written", "count"), [("64m", 64 << 20), ("1.5GiB", 3 << 29), ("4096", 4096), ("1kb", 1024)])
def test_sizes(written: str, count: int) -> None:
    assert text.size_bytes(written, "x") == count


@pytest.mark.parametrize(
    ("written", "port"),
    [
        ("8080:80", PortConfig(published_port=8080, target_port=80)),
        ("80", PortConfig(target_port=80)),
        ("53:5353/udp", PortConfig(published_port=53, target_port=5353, protocol=Protocol.UDP)),
        (
            "published=8080,target=80,mode=host,name=http",
            PortConfig(published_port=8080, target_port=80, publish_mode=PublishMode.HOST, name="http"),
        ),
        (
            "target=80,host=a.example,host=*.b.example,path=/api,tls-secret=site,balance=maglev,idle-timeout=0",
            PortConfig(
                target_port=80,
                ingress=IngressConfig(
                    http=HttpConfig(hosts=("a.example", "*.b.example"), paths=("/api",)),
                    tls_secret="site",
                    algorithm=BalanceAlgorithm.MAGLEV,
                    idle_timeout_s=0,
                ),
            ),
        ),
        (
            "target=80,address=10.0.0.1,address=::1,node=node.labels.edge==yes,local-first",
            PortConfig(
                target_port=80,
                ingress=IngressConfig(
                    addresses=("10.0.0.1", "::1"), nodes=("node.labels.edge==yes",), local_first=True
                ),
            ),
        ),
    ],
)
def test_ports(written: str, port: PortConfig) -> None:
    assert text.port(written, "x") == port


@pytest.mark.parametrize(
    ("written", "mount"),
    [
        (
            "type=bind,src=/a,dst=/b,readonly",
            Mount(type=MountType.BIND, source="/a", target="/b", read_only=True),
        ),
        ("source=data,target=/b", Mount(type=MountType.VOLUME, source="data", target="/b")),
        (
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777",
            Mount(type=MountType.TMPFS, target="/t", tmpfs_size_bytes=1 << 20, tmpfs_mode=0o1777),
        ),
    ],
)
def test_mounts(written: str, mount: Mount) -> None:
    assert text.mount(written, "x") == mount


@pytest.mark.parametrize(
    ("parse", "written"),
    [
        (text.duration_s, "soon"),
        (text.duration_s, ""),
        (text.duration_s, "-5s"),
        (text.duration_s, "5s later"),
        (text.size_bytes, "big"),
        (text.size_bytes, "-1"),
        (text.nano_cpus, "two"),
        (text.nano_cpus, "nan"),
        (text.whole, "-1"),
        (text.whole, "1.5"),
        (text.ratio, "1.5"),
        (text.pair, "=x"),
        (text.port, "99999:80"),
        (text.port, "8080:"),
        (text.port, ":80"),
        (text.port, "8080:80/icmp"),
        (text.port, "127.0.0.1:8080:80"),
        (text.port, "8000-8010:80"),
        (text.port, "published=80"),
        (text.port, "target=80,colour=red"),
        (text.mount, "type=bind,target=/x"),
        (text.mount, "type=bind,source=/x"),
        (text.mount, "type=blob,source=/x,target=/y"),
        (text.mount, "source=/x,target=/y,readonly=perhaps"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_value(parse: Callable[[str, str], object], written: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(written, "--flag")
    assert [problem.path for problem in caught.value.problems] == ["--flag"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "a moment"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7200, "2 hours"),
        (1e6, "11 days"),
        (2e6, "3 weeks"),
    ],
)
def test_ages(seconds: float, words: str) -> None:
    assert age(seconds) == words


@pytest.mark.parametrize("written", ["500ms", "10s", "1m30s", "2h", "1h1m1s", "90d", "0s"])
def test_a_shown_duration_reads_back(written: str) -> None:
    assert span(text.duration_s(written, "x")) == written


def test_a_shown_size_reads_back() -> None:
    assert text.size_bytes(size(64 << 20), "x") == 64 << 20
