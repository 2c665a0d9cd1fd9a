"""The results tables: columns and keys.

The columns listed in the design's contract come first in each table; the others are ours. Every moment is UTC. Keys
make a re-run of a window replace its own rows. A change here needs a step in `migrations/versions`, and its revision
in `schema.REVISION`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
)

from hindcast.results.types import Moment, Name, Number, Words

METADATA = MetaData()

STATUSES = (
    "ok",
    "failed",
    "insufficient_data",
    "missing_column",
    "all_null",
    "type_changed",
    "new_column",
    "constant",
    "error",
)


def _key(name: str, kind: Any = Name) -> Column[Any]:
    return Column(name, kind, primary_key=True, nullable=False)


def _text(*names: str) -> list[Column[Any]]:
    return [Column(name, Words) for name in names]


def _float(*names: str) -> list[Column[Any]]:
    return [Column(name, Number) for name in names]


def _provenance() -> list[Column[Any]]:
    return [Column("reason", Words), Column("config_digest", Name)]


windows = Table(
    "windows",
    METADATA,
    _key("model_name"),
    _key("window_start", Moment),
    Column("window_end", Moment, nullable=False),
    Column("as_of", Moment, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("manifest_digest", Name),
    Column("config_digest", Name),
    Column("status", Name, nullable=False),
    Column("reason", Words),
    Column("model_version", Name),
    Column("duplicate_ids", BigInteger),
    Column("misplaced_rows", BigInteger),
    Column("newest_prediction", Moment),
    Column("engine", Name),
    Column("details", Words),
    Column("recorded_at", Moment),
    Column("late_rows", BigInteger),
    Column("late_seconds", BigInteger),
    Column("dropped_rows", BigInteger),
)

quality = Table(
    "quality",
    METADATA,
    _key("model_name"),
    Column("model_version", Name),
    _key("window_start", Moment),
    _key("subject"),
    _key("metric"),
    *_float("value", "threshold"),
    Column("status", Name, nullable=False),
    *_provenance(),
    Column("expectation", Name),
)

drift = Table(
    "drift",
    METADATA,
    _key("model_name"),
    Column("model_version", Name),
    _key("window_start", Moment),
    _key("segment"),
    _key("feature"),
    _key("baseline"),
    _key("scale_hours", Integer),
    _key("metric"),
    *_float("value", "threshold", "p_value"),
    Column("drifted", Boolean),
    Column("status", Name, nullable=False),
    *_float("n_current", "n_baseline"),
    *_provenance(),
)

performance = Table(
    "performance",
    METADATA,
    Column("model_name", Name, nullable=False),
    Column("model_version", Name, nullable=False),
    Column("window_start", Moment, nullable=False),
    Column("segment", Name, nullable=False),
    Column("metric", Name, nullable=False),
    *_float("value", "lower", "upper", "baseline", "change_percent"),
    Column("estimated", Boolean, nullable=False),
    Column("label_coverage", Number),
    Column("as_of", Moment, nullable=False),
    Column("status", Name, nullable=False),
    Column("label_age_hours", Integer, nullable=False),
    Column("n", Integer),
    *_provenance(),
    # The window comes before the version: what replaces a window must not read the whole model.
    PrimaryKeyConstraint("model_name", "window_start", "label_age_hours", "segment", "metric", "model_version"),
)

importance = Table(
    "importance",
    METADATA,
    _key("model_name"),
    Column("model_version", Name),
    _key("window_start", Moment),
    _key("feature"),
    *_float("importance", "lower", "upper"),
    Column("rank", Integer),
    Column("n", Integer),
    Column("status", Name, nullable=False),
    *_provenance(),
)

findings = Table(
    "findings",
    METADATA,
    _key("model_name"),
    _key("window_start", Moment),
    _key("check"),
    _key("kind"),
    _key("subject"),
    _key("segment"),
    _key("metric"),
    _key("scale_hours", Integer),
    _key("label_age_hours", Integer),
    *_float("value", "baseline", "change_percent", "threshold"),
    Column("severity", Name, nullable=False),
    Column("detected_at", Moment, nullable=False),
    *_provenance(),
    Column("planned", Words),
)

alerts = Table(
    "alerts",
    METADATA,
    _key("alert_id"),
    Column("model_name", Name, nullable=False),
    Column("kind", Name, nullable=False),
    Column("severity", Name, nullable=False),
    Column("subject", Name, nullable=False),
    Column("metric", Name, nullable=False),
    *_float("current_value", "baseline_value", "change_percent"),
    Column("state", Name, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("last_seen_at", Moment, nullable=False),
    Column("resolved_at", Moment),
    Column("incident_id", Name),
    *_text("details"),
    Column("detected_at", Moment, nullable=False),
)

incidents = Table(
    "incidents",
    METADATA,
    _key("incident_id"),
    Column("severity", Name, nullable=False),
    *_text("title", "description"),
    Column("detected_at", Moment, nullable=False),
    Column("affected_model", Name, nullable=False),
    *_text("symptoms", "metrics"),
    Column("resolved_at", Moment),
    *_text("root_cause", "resolution"),
    Column("state", Name, nullable=False),
    Column("opened_at", Moment, nullable=False),
)

acceptances = Table(
    "acceptances",
    METADATA,
    _key("model_name"),
    _key("kind"),
    _key("subject"),
    _key("accepted_at", Moment),
    Column("since", Moment, nullable=False),
    Column("alert_id", Name, nullable=False),
    Column("automatic", Boolean, nullable=False),
    Column("actor", Name, nullable=False),
    *_provenance(),
    Column("recorded_at", Moment),
    comment="Levels that are the usual ones from a moment of the data on; alerts and baselines follow from them.",
)

profiles = Table(
    "profiles",
    METADATA,
    _key("model_name"),
    _key("window_start", Moment),
    Column("bins_digest", Name, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("profile", LargeBinary, nullable=False),
)

references = Table(
    "references",
    METADATA,
    _key("model_name"),
    _key("reference_digest"),
    Column("bins_digest", Name, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("profile", LargeBinary, nullable=False),
    Column("pieces", LargeBinary, nullable=False),
    Column("recorded_at", Moment, nullable=False),
)

slices = Table(
    "slices",
    METADATA,
    _key("model_name"),
    _key("window_start", Moment),
    Column("bins_digest", Name, nullable=False),
    Column("content", LargeBinary, nullable=False),
    comment="Profiles of the segments and versions of an hour in coarse bins, where it has several.",
)

reference_slices = Table(
    "reference_slices",
    METADATA,
    _key("model_name"),
    _key("reference_digest"),
    _key("slicing_digest"),
    Column("content", LargeBinary, nullable=False),
    comment="The segments of a reference in coarse bins; the digest names bins and segments.",
)

outcomes = Table(
    "outcomes",
    METADATA,
    _key("model_name"),
    _key("window_start", Moment),
    _key("label_age_hours", Integer),
    Column("outcomes", LargeBinary, nullable=False),
    comment="Mergeable outcome counts per segment, from which performance baselines are summed.",
)

memory = Table(
    "memory",
    METADATA,
    _key("model_name"),
    _key("window_start", Moment),
    _key("check"),
    Column("content", LargeBinary, nullable=False),
    comment="What the alert policy learnt from a window: excesses and open episodes.",
)

episodes = Table(
    "episodes",
    METADATA,
    _key("model_name"),
    _key("window_start", Moment),
    _key("check"),
    _key("subject"),
    comment="Hours inside an episode of a subject: they leave its baselines, also months later.",
)

checks = Table(
    "checks",
    METADATA,
    _key("model_name"),
    _key("window_start", Moment),
    _key("check"),
    Column("status", Name, nullable=False),
    Column("reason", Words),
    Column("as_of", Moment, nullable=False),
    Column("config_digest", Name),
    Column("duration_seconds", Number),
    Column("recorded_at", Moment),
)

outbox = Table(
    "outbox",
    METADATA,
    _key("model_name"),
    _key("check"),
    Column("window_start", Moment, nullable=False),
    Column("content", Words, nullable=False),
    comment="Metrics for the Pushgateway: the newest window per (model, check).",
)

pushes = Table(
    "pushes",
    METADATA,
    _key("model_name"),
    _key("check"),
    Column("window_start", Moment, nullable=False),
    Column("pushed_at", Moment, nullable=False),
    Column("status", Name, nullable=False),
    Column("reason", Words),
    comment="What of the outbox the gateway was given: no row while it waits.",
)

audit = Table(
    "audit",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("recorded_at", Moment, nullable=False),
    Column("actor", Name, nullable=False),
    Column("action", Name, nullable=False),
    Column("model_name", Name),
    Column("window_start", Moment),
    *_text("content"),
    Column("previous_hash", Name, nullable=False),
    Column("hash", Name, nullable=False),
)

Index("audit_chain", audit.c.previous_hash, unique=True)  # the chain cannot fork
Index("alerts_by_model", alerts.c.model_name, alerts.c.opened_at)
Index("incidents_by_model", incidents.c.affected_model, incidents.c.opened_at)

days = Table(
    "days",
    METADATA,
    _key("model_name"),
    _key("day", Moment),
    *[Column(f"hours_{state}", Integer, nullable=False) for state in ("ok", "empty", "partial", "failed", "missing")],
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("alerts_opened", Integer, nullable=False),
    Column("alerts_resolved", Integer, nullable=False),
    Column("incidents_opened", Integer, nullable=False),
    Column("label_coverage", Words),
    Column("config_digest", Name),
    comment="Facts of a UTC day; label_coverage is JSON, by label age in hours.",
)
