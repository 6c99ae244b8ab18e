"""The node's tasks on disk: what the agent must know again after it was killed. Used by ``shell.tasks`` only.

SQLite in WAL mode in ``worker/tasks.db``: a transaction that returned survives the death of the process. Power loss may take the last
moments, and a damaged file is moved away: drivers find by task id what the database no longer knows. Templates are kept once per version. Secrets and configs are never
here. A task that was taken away stays, marked, until its driver has removed it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from services.agent.core.outcome import Handle
from services.kit.errors import DataLoss
from services.kit.model.ids import SpecVersionId, TaskId, spec_version_id
from services.kit.model.objects import SpecVersion, Task, TaskStatus
from services.kit.runtime.files import make_directory
from services.kit.runtime.log import Log
from services.kit.wire.codec import decode, encode

_LAYOUT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, spec_id TEXT NOT NULL, task BLOB NOT NULL, status BLOB NOT NULL, handle BLOB, taken_away INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS specs (id TEXT PRIMARY KEY, spec BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """A task as it was when the agent ended."""

    task: Task
    spec: SpecVersion
    status: TaskStatus
    handle: Handle | None
    taken_away: bool


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """What changed of a task."""

    task_id: TaskId
    status: TaskStatus
    handle: Handle | None


class TaskDatabase:
    """The open database. Calls are short and block; each is one transaction."""

    def __init__(self, directory: Path) -> None:
        make_directory(directory)
        self._path = directory / "tasks.db"
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            Log("database").error("task database is damaged, moved away", path=str(self._path), reason=str(error))
            for suffix in ("", "-wal", "-shm"):
                path = directory / f"tasks.db{suffix}"
                if path.exists():
                    path.rename(directory / f"tasks.db{suffix}.damaged")
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            layout = connection.execute("PRAGMA user_version").fetchone()[0]
            if layout == 0:
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA user_version={_LAYOUT}")
        except sqlite3.Error:
            connection.close()
            raise
        if layout not in {0, _LAYOUT}:
            connection.close()
            raise DataLoss(f"{self._path} has layout {layout}, this agent knows {_LAYOUT}: a newer version wrote it")
        return connection

    def load(self) -> tuple[StoredTask, ...]:
        """Return all tasks, by id."""
        specs = {
            SpecVersionId(spec_id): decode(SpecVersion, data)
            for spec_id, data in self._connection.execute("SELECT id, spec FROM specs")
        }
        rows = self._connection.execute("SELECT spec_id, task, status, handle, taken_away FROM tasks ORDER BY id")
        return tuple(
            StoredTask(
                task=decode(Task, task),
                spec=specs[SpecVersionId(spec_id)],
                status=decode(TaskStatus, status),
                handle=None if handle is None else Handle(handle),
                taken_away=bool(taken_away),
            )
            for spec_id, task, status, handle, taken_away in rows
        )

    def add(self, tasks: Iterable[tuple[Task, SpecVersion]]) -> None:
        """Keep new tasks, and the changed wish for known ones."""
        with self._transaction():
            for task, spec in tasks:
                self._connection.execute("INSERT OR IGNORE INTO specs VALUES (?, ?)", (spec.id, encode(spec)))
                self._connection.execute(
                    "INSERT INTO tasks (id, spec_id, task, status) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET task = excluded.task, taken_away = 0",
                    (task.id, spec_version_id(task.service_id, task.spec_version), encode(task), encode(task.status)),
                )

    def take_away(self, task_ids: Iterable[TaskId]) -> None:
        """Mark tasks that are no longer ours."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE tasks SET taken_away = 1 WHERE id = ?", [(task_id,) for task_id in task_ids]
            )

    def write(self, writes: Iterable[StatusWrite], forgotten: Iterable[TaskId] = ()) -> None:
        """Keep new statuses, and drop tasks of which nothing is left together with the templates only they used."""
        gone = [(task_id,) for task_id in forgotten]
        with self._transaction():
            self._connection.executemany(
                "UPDATE tasks SET status = ?, handle = ? WHERE id = ?",
                [(encode(write.status), write.handle, write.task_id) for write in writes],
            )
            if gone:
                self._connection.executemany("DELETE FROM tasks WHERE id = ?", gone)
                self._connection.execute("DELETE FROM specs WHERE id NOT IN (SELECT spec_id FROM tasks)")

    def close(self) -> None:
        """Close; idempotent."""
        self._connection.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection)


class _Transaction:
    """BEGIN … COMMIT, or ROLLBACK when the body raises."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # A commit that the disk refused, or a body that raised; SQLite may have rolled back by itself.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
