"""Tasks: remove. Reading is in refs and filters."""

from __future__ import annotations

from services.dispatcher.core.control.answers import Answer
from services.dispatcher.core.control.refs import find_task
from services.kit.messages.control import RemoveTaskRequest
from services.kit.state.transaction import remove
from services.kit.state.view import View


def remove_task(view: View, request: RemoveTaskRequest) -> Answer:
    """Return the write that deletes a task whatever its state; its slot is filled again."""
    task = find_task(view, request.task_id)
    return Answer(ops=(remove(task),), thing=task)
