"""Where logs and labels come from: one file per system behind one small Protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hindcast.sources.base import Source


def open_source(uri: str, connection: str | None = None) -> Source:
    """The source behind a URI; the system's own module is imported only here.

    Raises
    ------
    UsageError
        No source reads this scheme.
    SourceMissing
        The place does not exist.
    """
    if uri.startswith("bq://"):
        from hindcast.sources.bigquery import BigQueryTable

        return BigQueryTable(uri, connection)
    if uri.startswith("s3://"):
        from hindcast.sources.s3 import S3

        return S3(uri, connection)
    from hindcast.sources.folder import Folder, local_path

    return Folder(local_path(uri, connection))
