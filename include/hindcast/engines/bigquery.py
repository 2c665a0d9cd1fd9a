"""The engine for windows in BigQuery that are too large to stream: features are profiled where they lie, as SQL.

Row facts are rows anyway: their columns, and the few whose type SQL cannot write as the kernel does, are streamed
through the kernel, which counts them on the way. Profiles add up, so the two halves make the whole.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from hindcast.engines.base import Plan, Scan
from hindcast.engines.bigquery_repeats import without_repeats
from hindcast.engines.bigquery_sql import (
    AS_NUMBER,
    AS_TEXT,
    Statement,
    Window,
    categorical_statements,
    numeric_statements,
    sample_statement,
)
from hindcast.engines.local import row_facts, stream
from hindcast.errors import SourceBusy, SourceUnreadable, UsageError
from hindcast.profile.columns import buffer_values, type_name
from hindcast.profile.profile import NEW, NEW_VALUES_KEPT, NULL_CATEGORY, Profile
from hindcast.profile.sampling import Sample
from hindcast.profile.scan import Scanner
from hindcast.sources.base import GIGABYTE
from hindcast.sources.bigquery import BigQueryTable, arrow_type, as_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.cloud.bigquery import QueryJob
    from google.cloud.bigquery.table import RowIterator

    from hindcast.config import ModelFile
    from hindcast.profile.bins import Bins
    from hindcast.profile.facts import RowFacts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BigQueryEngine:
    """Profiles features by queries and streams the rest.

    Parameters
    ----------
    model : str
        Name for the labels of the jobs, by which a bill can be split.
    max_gb_billed : float
        No query may bill more, in 10⁹ bytes.
    """

    model: str
    max_gb_billed: float

    @classmethod
    def of(cls, model: ModelFile) -> BigQueryEngine:
        """The engine that a model file configures."""
        return cls(model.model, model.bigquery.max_gb_billed)

    def scan(self, plan: Plan) -> Scan:
        """Read the rows once for their facts; features twice, inside BigQuery: for the profile and for the sample.

        Raises
        ------
        UsageError
            A query would bill more than allowed.
        SourceMissing, SourceUnreadable, SourceBusy
        """
        source = plan.source
        if not isinstance(source, BigQueryTable):
            message = f"engine bigquery cannot read {plan.source.uri}; use auto or local"
            raise UsageError(message)
        item, dropped = as_slice(plan.manifest.objects[0]), 0
        labels, most = self._labels(plan), int(self.max_gb_billed * GIGABYTE)
        if plan.drop_duplicates:
            item, dropped = without_repeats(source, item, labels=labels, maximum_bytes_billed=most)
        window = Window(source.name, item.snapshot, plan.start, plan.end, item.stays)
        facts = row_facts(plan)
        streamed = streamed_columns(plan.bins, source.types, facts.wants(source.schema()))
        queries = _Queries(source, labels, most)
        counting = _statements(plan, window, source.types, streamed)
        queries.estimate([*(statement for statement, _ in counting), _sampling(plan, window, source.types, at_most=0)])
        scanner = Scanner(plan.bins, plan.expected, facts)
        stream(scanner, source, item, streamed, facts)
        profile = scanner.profile
        try:
            with source.translated():
                for statement, add in counting if profile.rows else ():
                    rows = queries.run(statement).to_arrow(bqstorage_client=source.reader)
                    add(profile, statement, rows.to_pylist())
                sample = _sample(plan, window, queries, facts)
            _note_types(profile, source, streamed)
        except BaseException:
            facts.discard()
            raise
        facts.close()
        features = {name for name in source.types if name.startswith("feature_")}
        unknown = frozenset(features - {*plan.bins.numeric, *plan.bins.categorical})
        duplicates = facts.duplicates.count() + dropped
        return Scan(profile, facts.noted, sample, duplicates, unknown, dropped=dropped)

    def _labels(self, plan: Plan) -> dict[str, str]:
        """Labels hold small letters, digits, dashes and underscores, at most 63."""
        model = re.sub(r"[^a-z0-9_-]", "_", self.model.lower())[:63]
        return {"model": model, "window": f"{plan.start:%Y-%m-%dt%H}", "check": "pull"}


@dataclass(frozen=True)
class _Queries:
    """Runs statements, none of which may bill more than `most_bytes`."""

    source: BigQueryTable
    labels: dict[str, str]
    most_bytes: int

    def estimate(self, statements: Sequence[Statement]) -> None:
        """Log what a dry run says that the statements will bill; refuse if it is too much."""
        sizes = [self._job(statement, dry_run=True).total_bytes_processed for statement in statements]
        text = ", ".join(f"{size / GIGABYTE:.3g}" for size in sizes)
        logger.info("%s: %d queries of %s GB (estimated by a dry run)", self.source.uri, len(sizes), text)
        if max(sizes) > self.most_bytes:
            message = (
                f"{self.source.uri}: a query would bill {max(sizes) / GIGABYTE:.3g} GB, more than "
                f"bigquery.max_gb_billed = {self.most_bytes / GIGABYTE:.3g}; raise it, or partition the table by hour"
            )
            raise UsageError(message)

    def run(self, statement: Statement) -> RowIterator:
        """Run one; its rows."""
        with self.source.translated():
            return self._job(statement).result(retry=self.source.retry)

    def _job(self, statement: Statement, *, dry_run: bool = False) -> QueryJob:
        return self.source.query(
            statement.sql,
            [_parameter(name, value) for name, value in statement.parameters.items()],
            maximum_bytes_billed=self.most_bytes,
            labels=self.labels,
            dry_run=dry_run,
            use_query_cache=not dry_run,
        )


def _parameter(name: str, value: Any) -> Any:
    from google.cloud.bigquery import ArrayQueryParameter, ScalarQueryParameter, StructQueryParameter

    if isinstance(value, dict):
        return StructQueryParameter(name, *(_parameter(key, inner) for key, inner in value.items()))
    if isinstance(value, list):
        return ArrayQueryParameter(name, "FLOAT64" if value and isinstance(value[0], float) else "STRING", value)
    if isinstance(value, datetime):
        return ScalarQueryParameter(name, "TIMESTAMP", value)
    return ScalarQueryParameter(name, "INT64" if isinstance(value, int) else "FLOAT64", value)


def streamed_columns(bins: Bins, types: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    """Columns of the table that the kernel must see: those of the row facts, and of types that SQL writes otherwise.

    Examples
    --------
    >>> from hindcast.profile.bins import Bins
    >>> bins = Bins(("feature_a", "feature_t"), (np.array([0.0]),) * 2, ("feature_b", "feature_c"), ((), ()))
    >>> types = {"feature_a": "FLOAT64", "feature_t": "TIME", "feature_b": "STRING", "feature_c": "FLOAT64"}
    >>> streamed_columns(bins, types, ["feature_b", "error"])
    ['feature_b', 'feature_t', 'feature_c']
    """
    strange = [name for name in bins.numeric if types.get(name, "FLOAT64") not in AS_NUMBER]
    strange += [name for name in bins.categorical if types.get(name, "STRING") not in AS_TEXT]
    return list(dict.fromkeys(name for name in (*wanted, *strange) if name in types))


def _statements(
    plan: Plan, window: Window, types: Mapping[str, str], streamed: Sequence[str]
) -> list[tuple[Statement, Callable[[Profile, Statement, list[dict[str, Any]]], None]]]:
    """What counts the columns that are not streamed, and who adds the rows that it gives to the profile."""
    bins, held = plan.bins, {*streamed}
    numeric = [i for i, name in enumerate(bins.numeric) if name in types and name not in held]
    categorical = [i for i, name in enumerate(bins.categorical) if name in types and name not in held]
    return [
        *((each, _add_numeric) for each in numeric_statements(window, bins, plan.expected, types, numeric)),
        *((each, _add_categorical) for each in categorical_statements(window, bins, plan.expected, types, categorical)),
    ]


def _add_numeric(profile: Profile, statement: Statement, rows: list[dict[str, Any]]) -> None:
    bins, totals = profile.bins, dict.fromkeys(statement.columns, 0)
    for row in rows:
        i = statement.columns[row["position"]]
        totals[i] += row["found"]
        if row["slot"] < 0:
            profile.numeric[i, bins.width - 1 - row["slot"]] += row["found"]
            continue
        at = bins.edges[i].size - row["slot"]
        profile.numeric[i, at] += row["found"]
        profile.sums[i, at] += row["units"]
        profile.low[i] = min(profile.low[i], row["low"] + 0.0)
        profile.high[i] = max(profile.high[i], row["high"] + 0.0)
        profile.outside[i] += (row["below"], row["above"])
    _all_rows(profile, {bins.numeric[i]: total for i, total in totals.items()})


def _add_categorical(profile: Profile, statement: Statement, rows: list[dict[str, Any]]) -> None:
    bins, totals = profile.bins, dict.fromkeys(statement.columns, 0)
    for row in rows:
        i = statement.columns[row["position"]]
        totals[i] += row["found"]
        profile.outside[len(bins.numeric) + i, 0] += row["unexpected"]
        if row["known"] is None:
            profile.categorical[i, bins.depth + NULL_CATEGORY] += row["found"]
        elif row["known"]:
            at = {value: k for k, value in enumerate(bins.categories[i])}
            for kept in row["kept"]:
                profile.categorical[i, at[kept["text"]]] += kept["found"]
        else:
            profile.categorical[i, bins.depth + NEW] += row["found"]
            new = row["kept"][:NEW_VALUES_KEPT]
            profile.add_new_values(bins.categorical[i], {kept["text"]: (kept["hash"], kept["found"]) for kept in new})
    _all_rows(profile, {bins.categorical[i]: total for i, total in totals.items()})


def _all_rows(profile: Profile, totals: Mapping[str, int]) -> None:
    """Refuse to mix two states of the table."""
    for name, total in totals.items():
        if total != profile.rows:
            message = f"{name}: a query counted {total} rows where {profile.rows} were streamed: not one snapshot"
            raise SourceBusy(message)


def _note_types(profile: Profile, source: BigQueryTable, streamed: Sequence[str]) -> None:
    """Say what the pushed columns hold; the kernel, which was not given them, took them for missing."""
    for name in {*profile.types}.intersection(source.types).difference(streamed):
        profile.types[name] = {type_name(arrow_type(source.types[name])): profile.rows}


def _sampling(plan: Plan, window: Window, types: Mapping[str, str], at_most: int) -> Statement:
    kind = types.get("prediction_id", "STRING")
    if kind not in AS_TEXT:
        message = f"{plan.source.uri}: prediction_id is {kind}; allowed: STRING, INT64"
        raise SourceUnreadable(message)
    seed = int(Sample(0).seed)
    return sample_statement(window, types, _sampled(plan, types), at_most, seed)


def _sampled(plan: Plan, types: Mapping[str, str]) -> list[str]:
    every = (*plan.bins.numeric, *plan.bins.categorical)
    return [name for name in every if name in types and name.startswith("feature_")]


def _sample(plan: Plan, window: Window, queries: _Queries, facts: RowFacts) -> Sample:
    """Fetch the features of the rows whose keys were the smallest of those streamed."""
    sample, source = Sample(plan.sample_rows), queries.source
    keys = facts.sample.to_arrow().column("key")
    if not len(keys):
        return sample
    found = queries.run(_sampling(plan, window, source.types, at_most=keys[-1].as_py()))
    for batch in found.to_arrow_iterable(bqstorage_client=source.reader):
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        sample.begin(*(buffer_values(columns[name], np.int64) for name in ("key", "moment")))
        for k, name in enumerate(_sampled(plan, source.types)):
            sample.take(name, columns[f"f{k}"])
        sample.end()
    return sample
