"""The cluster volumes of a node: brought up when given, taken down when nobody uses them, reported until acknowledged."""

from __future__ import annotations

from services.agent.core.volumes import RETRY_FIRST_S, Do, Step, VolumeBook
from services.kit.messages.session import AssignedVolume
from services.kit.model.ids import VolumeId

V = VolumeId("v")
GIVEN = AssignedVolume(id=V, driver="shared", volume_id="their-v")


def brought_up() -> VolumeBook:
    book = VolumeBook()
    book.assign(full=True, given=(GIVEN,), removed=())
    assert book.due(0.0, ()) == [Do(Step.UP, GIVEN)]
    assert book.due(0.0, ()) == [], "one step at a time"
    assert book.path(V) == ""
    book.done(V, Step.UP, "/here")
    return book


def test_a_volume_is_somewhere_once_it_is_published() -> None:
    book = brought_up()
    assert book.path(V) == "/here"
    assert book.due(0.0, ()) == []
    assert book.reports() == ()


def test_a_volume_is_taken_down_when_no_task_uses_it_and_reported_until_that_is_known() -> None:
    book = brought_up()
    book.assign(full=False, given=(), removed=(V,))
    assert book.path(V) == ""
    assert book.due(0.0, {V}) == [], "a task still has it"
    assert book.due(0.0, ()) == [Do(Step.DOWN, GIVEN)]
    assert book.reports() == ()
    book.done(V, Step.DOWN)
    assert book.reports() == (V,)
    book.acknowledged((V,))
    assert book.reports() == ()


def test_a_failed_step_is_tried_again_later_each_time() -> None:
    book = VolumeBook()
    book.assign(full=True, given=(GIVEN,), removed=())
    now = 0.0
    waits = []
    for _ in range(3):
        assert book.due(now, ()) == [Do(Step.UP, GIVEN)]
        book.failed(V, now, "no room")
        assert book.trouble(V) == "no room"
        deadline = book.deadline()
        assert deadline is not None
        waits.append(deadline - now)
        assert book.due(now, ()) == []
        now = deadline
    assert waits[0] == RETRY_FIRST_S
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]


def test_a_full_set_takes_away_what_it_does_not_give() -> None:
    book = brought_up()
    book.assign(full=True, given=(), removed=())
    assert book.due(0.0, ()) == [Do(Step.DOWN, GIVEN)]


def test_a_volume_that_was_never_here_is_reported_at_once() -> None:
    book = VolumeBook()
    book.assign(full=True, given=(), removed=(V,))
    assert book.reports() == (V,)


def test_what_an_earlier_agent_brought_up_is_brought_up_again_or_taken_down() -> None:
    book = VolumeBook()
    book.adopt((GIVEN,))
    book.assign(full=True, given=(), removed=(V,))
    assert book.due(0.0, ()) == [Do(Step.DOWN, GIVEN)]
    again = VolumeBook()
    again.adopt((GIVEN,))
    again.assign(full=True, given=(GIVEN,), removed=())
    assert again.due(0.0, ()) == [Do(Step.UP, GIVEN)]


def test_a_volume_that_is_given_again_while_it_goes_down_comes_up_afterwards() -> None:
    book = brought_up()
    book.assign(full=False, given=(), removed=(V,))
    assert book.due(0.0, ()) == [Do(Step.DOWN, GIVEN)]
    book.assign(full=False, given=(GIVEN,), removed=())
    book.done(V, Step.DOWN)
    assert book.reports() == ()
    assert book.due(0.0, ()) == [Do(Step.UP, GIVEN)]
