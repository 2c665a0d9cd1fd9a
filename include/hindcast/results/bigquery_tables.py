"""The tables of a dataset: made when a store is first opened, and brought up to date afterwards.

Alembic's steps do not run here: BigQuery has no indexes, no transaction for tables, and no way to rename most things.
They add tables and nullable columns, and so does this, from `tables` itself: whatever is missing is made, as often and
by as many as like. The revision is noted last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DatabaseError

from hindcast.errors import StoreMismatch
from hindcast.results import tables
from hindcast.results.bigquery import Remote, translated, where_free
from hindcast.results.gathered import ANY, TURNS, bigquery_type
from hindcast.results.schema import REVISION, VERSION_TABLE
from hindcast.results.types import Moment

if TYPE_CHECKING:
    from google.cloud.bigquery import SchemaField
    from google.cloud.bigquery import Table as BigQueryTable
    from sqlalchemy import Column, Connection, Table

# By whose day a table is partitioned; a table with none of these is small.
DAYS = ("window_start", "day", "opened_at", "recorded_at")
# What belongs together in a partition, as far as a table has it; at most four.
CLUSTERS = ("model_name", "check", "metric", "label_age_hours", "feature", "affected_model")
_ATTEMPTS = 5


def prepare(connection: Connection) -> None:
    """Make what is missing, unless the store says that it is up to date; others may be at it too.

    Raises
    ------
    StoreMismatch
        A newer Hindcast made the store.
    """
    where_free(_prepare, Remote.of(connection))


def _prepare(remote: Remote) -> None:
    home = remote.home
    with translated("open"):
        found = _revision(remote)
        if found == REVISION:
            return
        if found is not None and found > REVISION:
            message = (
                f"the store has revision {found}, this version of Hindcast knows those up to {REVISION}: a newer one "
                "made it. Upgrade Hindcast, or name another store"
            )
            raise StoreMismatch(message)
        _look_for(remote)
        for table in tables.METADATA.sorted_tables:
            _make(remote, described(table, home))
        _make(remote, _plain(f"{home}.{TURNS}", scope="STRING", turn="INT64", token="STRING"))  # noqa: S106 - a type
        _make(remote, _plain(f"{home}.{VERSION_TABLE}", version_num="STRING"))
        # two who do this at once may leave two rows each: a sum and a maximum mind neither
        remote.client.query_and_wait(
            f"INSERT INTO `{TURNS}` (scope, turn) SELECT '{ANY}', 0 FROM (SELECT 1) "
            f"WHERE NOT EXISTS (SELECT 1 FROM `{TURNS}` WHERE scope = '{ANY}')"
        )
        remote.client.query_and_wait(f"INSERT INTO `{VERSION_TABLE}` (version_num) VALUES ('{REVISION}')")


def _revision(remote: Remote) -> str | None:
    from google.api_core.exceptions import NotFound

    try:
        return max((row["version_num"] for row in remote.listed(VERSION_TABLE, version_num="STRING")), default=None)
    except NotFound:
        return None


def _look_for(remote: Remote) -> None:
    from google.api_core.exceptions import NotFound

    try:
        remote.client.get_dataset(remote.home, retry=remote.retry)
    except NotFound as error:
        name = ":".join(remote.home.rsplit(".", 1))
        message = f"there is no such dataset: make it where the data may lie, bq mk --location=EU --dataset {name}"
        raise DatabaseError("open", None, Exception(message)) from error


def described(table: Table, home: str) -> BigQueryTable:
    """A table as BigQuery is to make it: a day a partition, rows of a model side by side."""
    from google.cloud.bigquery import Table as BigQueryTable
    from google.cloud.bigquery import TimePartitioning

    made = BigQueryTable(f"{home}.{table.name}", [_field(column) for column in table.c])
    day = next((name for name in DAYS if name in table.c and isinstance(table.c[name].type, Moment)), None)
    if day and not table.c[day].nullable:
        made.time_partitioning = TimePartitioning(field=day)
    made.clustering_fields = [name for name in CLUSTERS if name in table.c][:4] or None
    made.description = table.comment
    return made


def _field(column: Column[Any], mode: str | None = None) -> SchemaField:
    from google.cloud.bigquery import SchemaField

    return SchemaField(column.name, bigquery_type(column.type), mode or ("NULLABLE" if column.nullable else "REQUIRED"))


def _plain(name: str, **columns: str) -> BigQueryTable:
    from google.cloud.bigquery import SchemaField
    from google.cloud.bigquery import Table as BigQueryTable

    return BigQueryTable(name, [SchemaField(column, kind) for column, kind in columns.items()])


def _make(remote: Remote, wanted: BigQueryTable) -> None:
    """Make a table, or give it the columns that it lacks; of those that exist nothing is changed."""
    from google.api_core.exceptions import PreconditionFailed
    from google.cloud.bigquery import SchemaField

    for attempt in range(_ATTEMPTS):
        there = remote.client.create_table(wanted, exists_ok=True, retry=remote.retry)
        names = {field.name for field in there.schema}
        more = [
            SchemaField(field.name, field.field_type, "NULLABLE") for field in wanted.schema if field.name not in names
        ]
        if not more:
            return
        there.schema = [*there.schema, *more]
        try:
            remote.client.update_table(there, ["schema"], retry=remote.retry)
        except PreconditionFailed:  # somebody else was at it: look again
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return
