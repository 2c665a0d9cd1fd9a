"""Where logs and labels come from: one file per system behind one small Protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hindcast.config import ModelFile
    from hindcast.sources.base import Source


def logs_of(model: ModelFile) -> Source:
    """Where the prediction logs of a model are.

    Raises
    ------
    UsageError, SourceMissing
    """
    logs = model.logs
    return open_source(model.resolve(logs.uri), logs.connection, max_gb=model.bigquery.max_gb_billed)


def labels_of(model: ModelFile) -> Source | None:
    """Where its late ground truth is, if it has such.

    Raises
    ------
    UsageError, SourceMissing
    """
    labels, most = model.labels, model.bigquery.max_gb_billed
    if labels is None:
        return None
    return open_source(model.resolve(labels.uri), labels.connection, times="label_timestamp", max_gb=most)


def open_source(
    uri: str, connection: str | None = None, *, times: str = "timestamp", max_gb: float | None = None
) -> Source:
    """The source behind a URI; the system's own module is imported only here.

    Parameters
    ----------
    uri : str
    connection : str, optional
        Airflow Connection.
    times : str
        Of a table, the column by which a row belongs to an hour; files lie in folders of hours.
    max_gb : float, optional
        Of a table, how many 10⁹ bytes a query may bill and a read session scan.

    Raises
    ------
    UsageError
        No source reads this scheme.
    SourceMissing
        The place does not exist.
    """
    if uri.startswith("bq://"):
        from hindcast.sources.bigquery import BigQueryTable

        return BigQueryTable(uri, connection, times=times, max_gb=max_gb)
    if uri.startswith("s3://"):
        from hindcast.sources.s3 import S3

        return S3(uri, connection)
    from hindcast.sources.folder import Folder, local_path

    return Folder(local_path(uri, connection))
