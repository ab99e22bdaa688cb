"""The tasks and cases that nothing but one sweep refers to: found, locked against new references, and deleted."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from gpuscout.store.schema import (
    Id,
    cases,
    failures,
    measured_runs,
    membership,
    operating_points,
    point_percentiles,
    tasks,
)


class Unshared:
    """The results of one sweep alone, found while it refers to them; `delete` removes them in the same transaction.

    Their ids are kept in temporary tables, for there may be a million.
    """

    def __init__(self, connection: sa.Connection, sweep_id: int) -> None:
        temporary = sa.MetaData()
        self._tasks, self._cases = (
            sa.Table(f"unshared_{name}", temporary, sa.Column("id", Id, primary_key=True), prefixes=["TEMPORARY"])
            for name in ("tasks", "cases")
        )
        temporary.create_all(connection, checkfirst=False)
        mine = sa.select(tasks.c.id).join(membership).where(membership.c.sweep_id == sweep_id)
        # Locked (Postgres) before asking who else refers to them, so that nobody begins to.
        locked = mine.order_by(tasks.c.id).with_for_update(of=tasks).subquery()
        connection.execute(sa.select(sa.func.count()).select_from(locked))
        other = membership.alias()
        shared = sa.select(other.c.task_id).where(other.c.task_id == tasks.c.id, other.c.sweep_id != sweep_id)
        self._fill(connection, self._tasks, mine.where(~shared.exists()))
        of_tasks = sa.select(tasks.c.case_id).where(tasks.c.id.in_(sa.select(self._tasks.c.id)))
        of_failures = sa.select(failures.c.case_id).where(failures.c.sweep_id == sweep_id)
        self._fill(connection, self._cases, of_tasks.union(of_failures))

    def delete(self, connection: sa.Connection) -> tuple[int, int, int]:
        """Delete them; how many tasks, operating points and cases."""
        doomed = sa.select(self._tasks.c.id)
        points = connection.execute(sa.delete(operating_points).where(operating_points.c.task_id.in_(doomed))).rowcount
        connection.execute(sa.delete(point_percentiles).where(point_percentiles.c.task_id.in_(doomed)))
        task_count = connection.execute(sa.delete(tasks).where(tasks.c.id.in_(doomed))).rowcount
        users = (
            sa.select(table.c.id).where(table.c.case_id == cases.c.id) for table in (tasks, failures, measured_runs)
        )
        unused = sa.and_(cases.c.id.in_(sa.select(self._cases.c.id)), *(~user.exists() for user in users))
        case_count = connection.execute(sa.delete(cases).where(unused)).rowcount
        for table in (self._tasks, self._cases):
            table.drop(connection, checkfirst=False)
        return task_count, points, case_count

    @staticmethod
    def _fill(connection: sa.Connection, table: sa.Table, query: sa.Select[Any] | sa.CompoundSelect[Any]) -> None:
        connection.execute(sa.insert(table).from_select(["id"], query))
