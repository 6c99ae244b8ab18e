"""When a check is asked and what its answers mean; how a check is read."""

from __future__ import annotations

import random

import pytest

from services.agent.core.health import (
    Answered,
    Ask,
    AskCommand,
    AskHttp,
    AskTcp,
    BadCheck,
    Due,
    HealthMachine,
    Healthy,
    Missed,
    Question,
    Unhealthy,
    find_port,
    question_of,
)
from services.agent.core.outcome import Observed
from services.kit.model.objects import PortStatus
from services.kit.model.specs import ContainerSpec, HealthCheck

NO = "connection refused"


class Clinic:
    """Plays a check in virtual time."""

    def __init__(self, check: HealthCheck, *, healthy: bool = False) -> None:
        self.now = 1000.0
        self.machine = HealthMachine(check, self.now, healthy=healthy)
        self.asked: list[float] = []

    def ask(self, answer: Answered | Missed, *, takes_s: float = 0.0) -> list[object]:
        deadline = self.machine.deadline()
        assert deadline is not None
        self.now = max(self.now, deadline)
        (ask,) = self.machine.step(self.now, Due())
        assert isinstance(ask, Ask)
        self.asked.append(self.now - 1000.0)
        assert self.machine.deadline() is None, "one question at a time"
        self.machine.check()
        self.now += takes_s
        actions = self.machine.step(self.now, answer)
        self.machine.check()
        return list(actions)


def test_a_task_that_is_up_serves_at_once_however_long_the_interval() -> None:
    clinic = Clinic(HealthCheck(test=("CMD", "x"), interval_s=30))
    assert clinic.ask(Answered(NO)) == []
    assert clinic.ask(Answered()) == [Healthy()]
    assert clinic.asked == [0.0, 0.25]
    assert clinic.ask(Answered()) == []
    assert clinic.asked[-1] == 30.25


def test_early_questions_come_at_doubling_pauses_and_do_not_count() -> None:
    clinic = Clinic(HealthCheck(test=("CMD", "x"), interval_s=10, retries=2, start_interval_s=2))
    while clinic.machine.describe()["failures"] == 0:
        assert clinic.ask(Answered(NO)) == []
    assert clinic.asked == [0, 0.25, 0.75, 1.75, 3.75, 5.75, 7.75, 9.75, 11.75]
    assert clinic.ask(Answered(NO)) == [Unhealthy(NO)]


def test_within_the_start_period_failures_do_not_count() -> None:
    clinic = Clinic(HealthCheck(test=("CMD", "x"), interval_s=1, retries=1, start_period_s=60, start_interval_s=20))
    while clinic.now < 1059:
        assert clinic.ask(Answered(NO)) == []
    assert clinic.ask(Answered(NO)) == [Unhealthy(NO)]


def test_a_healthy_answer_ends_the_start_period_and_forgives_failures() -> None:
    clinic = Clinic(HealthCheck(test=("CMD", "x"), interval_s=1, retries=3, start_period_s=600))
    assert clinic.ask(Answered()) == [Healthy()]
    for _ in range(5):
        assert clinic.ask(Answered(NO)) == []
        assert clinic.ask(Answered(NO)) == []
        assert clinic.ask(Answered()) == []
    assert clinic.ask(Answered(NO)) == []
    assert clinic.ask(Answered(NO)) == []
    assert clinic.ask(Answered(NO)) == [Unhealthy(NO)]


def test_an_adopted_task_is_asked_at_once_and_its_failures_count() -> None:
    clinic = Clinic(HealthCheck(test=("CMD", "x"), interval_s=5, retries=2), healthy=True)
    assert clinic.ask(Answered(NO)) == []
    assert clinic.ask(Answered(NO)) == [Unhealthy(NO)]
    assert clinic.asked == [0, 5]


def test_the_next_question_comes_an_interval_after_the_answer() -> None:
    clinic = Clinic(HealthCheck(test=("CMD", "x"), interval_s=5, timeout_s=60), healthy=True)
    clinic.ask(Answered(), takes_s=40)
    clinic.ask(Answered())
    assert clinic.asked == [0, 45]


def test_a_question_that_could_not_be_asked_says_nothing() -> None:
    clinic = Clinic(HealthCheck(test=("CMD", "x"), interval_s=5, retries=1), healthy=True)
    for _ in range(20):
        assert clinic.ask(Missed()) == []
    assert clinic.ask(Answered()) == []


def test_zero_means_the_default() -> None:
    check = HealthCheck(test=("CMD", "x"), interval_s=0, timeout_s=0, retries=0, start_interval_s=0)
    machine = HealthMachine(check, 0.0, healthy=True)
    assert machine.step(0.0, Due()) == [Ask(30.0)]
    assert machine.describe()["retries"] == 3


def test_it_is_unhealthy_only_after_so_many_failures_in_a_row() -> None:
    seed = random.SystemRandom().getrandbits(32)
    rng = random.Random(seed)
    for _ in range(200):
        retries = rng.randint(1, 4)
        clinic = Clinic(
            HealthCheck(test=("CMD", "x"), interval_s=rng.choice((0.1, 1, 30)), retries=retries), healthy=True
        )
        in_a_row = 0
        for _ in range(50):
            answer = rng.choice((Answered(), Answered(NO), Missed()))
            if isinstance(answer, Answered):
                in_a_row = in_a_row + 1 if answer.reason else 0
            actions = clinic.ask(answer)
            assert (actions == [Unhealthy(NO)]) == (in_a_row >= retries and answer == Answered(NO)), f"seed {seed}"
            if actions:
                break


@pytest.mark.parametrize(
    ("test", "question"),
    [
        ((), None),
        (("NONE",), None),
        (("CMD", "pg_isready", "-q"), AskCommand(("pg_isready", "-q"))),
        (("CMD-SHELL", "curl -f localhost"), AskCommand(("/bin/sh", "-c", "curl -f localhost"))),
        (("TCP", "5432"), AskTcp("5432")),
        (("TCP", ":web"), AskTcp("web")),
        (("TCP", ""), AskTcp("")),
        (("HTTP", "/healthz?x=1"), AskHttp("", "/healthz?x=1")),
        (("HTTP", ":web/healthz"), AskHttp("web", "/healthz")),
        (("HTTP", "http://localhost:8080/a/b"), AskHttp("8080", "/a/b")),
        (("HTTP", "http://localhost"), AskHttp("", "/")),
    ],
)
def test_a_check_is_read(test: tuple[str, ...], question: Question | None) -> None:
    assert question_of(ContainerSpec(health_check=HealthCheck(test=test))) == question


@pytest.mark.parametrize(
    "test",
    [
        ("CMD",),
        ("CMD-SHELL",),
        ("CMD-SHELL", "a", "b"),
        ("PING", "x"),
        ("HTTP", "http://example.com/"),
        ("HTTP", "/a b"),
    ],
)
def test_a_check_that_means_nothing_is_refused(test: tuple[str, ...]) -> None:
    with pytest.raises(BadCheck):
        question_of(ContainerSpec(health_check=HealthCheck(test=test)))


def test_a_port_is_found_by_name_by_target_or_as_the_first() -> None:
    ports = (
        PortStatus(name="web", target_port=80, port=20001),
        PortStatus(name="admin", target_port=81, port=20002, address="10.1.2.3"),
    )
    observed = Observed(ports=ports, address="172.17.0.2")
    assert find_port("web", observed, "10.0.0.1") == ("10.0.0.1", 20001)
    assert find_port("81", observed, "10.0.0.1") == ("10.1.2.3", 20002)
    assert find_port("", observed, "10.0.0.1") == ("10.0.0.1", 20001)
    assert find_port("9000", observed, "10.0.0.1") == ("172.17.0.2", 9000)
    assert find_port("9000", Observed(), "10.0.0.1") == ("10.0.0.1", 9000)
    for port in ("", "web"):
        with pytest.raises(BadCheck):
            find_port(port, Observed(), "10.0.0.1")
