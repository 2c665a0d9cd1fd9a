"""The first tables; a store from before revisions were recorded has these."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hindcast.results.types import Moment, Name, Number, Words

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make it so."""
    op.create_table(
        "acceptances",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("kind", Name(), nullable=False),
        sa.Column("subject", Name(), nullable=False),
        sa.Column("accepted_at", Moment(), nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.Column("alert_id", Name(), nullable=False),
        sa.Column("automatic", sa.Boolean(), nullable=False),
        sa.Column("actor", Name(), nullable=False),
        sa.Column("reason", Words(), nullable=True),
        sa.Column("config_digest", Name(), nullable=True),
        sa.Column("recorded_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("model_name", "kind", "subject", "accepted_at"),
        comment="Levels that are the usual ones from a moment of the data on; alerts and baselines follow from them.",
    )
    op.create_table(
        "alerts",
        sa.Column("alert_id", Name(), nullable=False),
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("kind", Name(), nullable=False),
        sa.Column("severity", Name(), nullable=False),
        sa.Column("subject", Name(), nullable=False),
        sa.Column("metric", Name(), nullable=False),
        sa.Column("current_value", Number(), nullable=True),
        sa.Column("baseline_value", Number(), nullable=True),
        sa.Column("change_percent", Number(), nullable=True),
        sa.Column("state", Name(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.Column("last_seen_at", Moment(), nullable=False),
        sa.Column("resolved_at", Moment(), nullable=True),
        sa.Column("incident_id", Name(), nullable=True),
        sa.Column("details", Words(), nullable=True),
        sa.Column("detected_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("alert_id"),
    )
    op.create_index("alerts_by_model", "alerts", ["model_name", "opened_at"], unique=False)
    op.create_table(
        "audit",
        sa.Column("sequence", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("recorded_at", Moment(), nullable=False),
        sa.Column("actor", Name(), nullable=False),
        sa.Column("action", Name(), nullable=False),
        sa.Column("model_name", Name(), nullable=True),
        sa.Column("window_start", Moment(), nullable=True),
        sa.Column("content", Words(), nullable=True),
        sa.Column("previous_hash", Name(), nullable=False),
        sa.Column("hash", Name(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_table(
        "checks",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("check", Name(), nullable=False),
        sa.Column("status", Name(), nullable=False),
        sa.Column("reason", Words(), nullable=True),
        sa.Column("as_of", Moment(), nullable=False),
        sa.Column("config_digest", Name(), nullable=True),
        sa.Column("duration_seconds", Number(), nullable=True),
        sa.Column("recorded_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("model_name", "window_start", "check"),
    )
    op.create_table(
        "days",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("day", Moment(), nullable=False),
        sa.Column("hours_ok", sa.Integer(), nullable=False),
        sa.Column("hours_empty", sa.Integer(), nullable=False),
        sa.Column("hours_partial", sa.Integer(), nullable=False),
        sa.Column("hours_failed", sa.Integer(), nullable=False),
        sa.Column("hours_missing", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("alerts_opened", sa.Integer(), nullable=False),
        sa.Column("alerts_resolved", sa.Integer(), nullable=False),
        sa.Column("incidents_opened", sa.Integer(), nullable=False),
        sa.Column("label_coverage", Words(), nullable=True),
        sa.Column("config_digest", Name(), nullable=True),
        sa.PrimaryKeyConstraint("model_name", "day"),
        comment="Facts of a UTC day; label_coverage is JSON, by label age in hours.",
    )
    op.create_table(
        "drift",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("model_version", Name(), nullable=True),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("segment", Name(), nullable=False),
        sa.Column("feature", Name(), nullable=False),
        sa.Column("baseline", Name(), nullable=False),
        sa.Column("scale_hours", sa.Integer(), nullable=False),
        sa.Column("metric", Name(), nullable=False),
        sa.Column("value", Number(), nullable=True),
        sa.Column("threshold", Number(), nullable=True),
        sa.Column("p_value", Number(), nullable=True),
        sa.Column("drifted", sa.Boolean(), nullable=True),
        sa.Column("status", Name(), nullable=False),
        sa.Column("n_current", Number(), nullable=True),
        sa.Column("n_baseline", Number(), nullable=True),
        sa.Column("reason", Words(), nullable=True),
        sa.Column("config_digest", Name(), nullable=True),
        sa.PrimaryKeyConstraint(
            "model_name", "window_start", "segment", "feature", "baseline", "scale_hours", "metric"
        ),
    )
    op.create_table(
        "episodes",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("check", Name(), nullable=False),
        sa.Column("subject", Name(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "window_start", "check", "subject"),
        comment="Hours inside an episode of a subject: they leave its baselines, also months later.",
    )
    op.create_table(
        "findings",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("check", Name(), nullable=False),
        sa.Column("kind", Name(), nullable=False),
        sa.Column("subject", Name(), nullable=False),
        sa.Column("segment", Name(), nullable=False),
        sa.Column("metric", Name(), nullable=False),
        sa.Column("scale_hours", sa.Integer(), nullable=False),
        sa.Column("label_age_hours", sa.Integer(), nullable=False),
        sa.Column("value", Number(), nullable=True),
        sa.Column("baseline", Number(), nullable=True),
        sa.Column("change_percent", Number(), nullable=True),
        sa.Column("threshold", Number(), nullable=True),
        sa.Column("severity", Name(), nullable=False),
        sa.Column("detected_at", Moment(), nullable=False),
        sa.Column("reason", Words(), nullable=True),
        sa.Column("config_digest", Name(), nullable=True),
        sa.Column("planned", Words(), nullable=True),
        sa.PrimaryKeyConstraint(
            "model_name",
            "window_start",
            "check",
            "kind",
            "subject",
            "segment",
            "metric",
            "scale_hours",
            "label_age_hours",
        ),
    )
    op.create_table(
        "importance",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("model_version", Name(), nullable=True),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("feature", Name(), nullable=False),
        sa.Column("importance", Number(), nullable=True),
        sa.Column("lower", Number(), nullable=True),
        sa.Column("upper", Number(), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("status", Name(), nullable=False),
        sa.Column("reason", Words(), nullable=True),
        sa.Column("config_digest", Name(), nullable=True),
        sa.PrimaryKeyConstraint("model_name", "window_start", "feature"),
    )
    op.create_table(
        "incidents",
        sa.Column("incident_id", Name(), nullable=False),
        sa.Column("severity", Name(), nullable=False),
        sa.Column("title", Words(), nullable=True),
        sa.Column("description", Words(), nullable=True),
        sa.Column("detected_at", Moment(), nullable=False),
        sa.Column("affected_model", Name(), nullable=False),
        sa.Column("symptoms", Words(), nullable=True),
        sa.Column("metrics", Words(), nullable=True),
        sa.Column("resolved_at", Moment(), nullable=True),
        sa.Column("root_cause", Words(), nullable=True),
        sa.Column("resolution", Words(), nullable=True),
        sa.Column("state", Name(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("incident_id"),
    )
    op.create_index("incidents_by_model", "incidents", ["affected_model", "opened_at"], unique=False)
    op.create_table(
        "memory",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("check", Name(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "window_start", "check"),
        comment="What the alert policy learnt from a window: excesses and open episodes.",
    )
    op.create_table(
        "outbox",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("check", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("content", Words(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "check"),
        comment="Metrics waiting for the Pushgateway: the newest window per (model, check).",
    )
    op.create_table(
        "outcomes",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("label_age_hours", sa.Integer(), nullable=False),
        sa.Column("outcomes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "window_start", "label_age_hours"),
        comment="Mergeable outcome counts per segment, from which performance baselines are summed.",
    )
    op.create_table(
        "performance",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("model_version", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("segment", Name(), nullable=False),
        sa.Column("metric", Name(), nullable=False),
        sa.Column("value", Number(), nullable=True),
        sa.Column("lower", Number(), nullable=True),
        sa.Column("upper", Number(), nullable=True),
        sa.Column("baseline", Number(), nullable=True),
        sa.Column("change_percent", Number(), nullable=True),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("label_coverage", Number(), nullable=True),
        sa.Column("as_of", Moment(), nullable=False),
        sa.Column("status", Name(), nullable=False),
        sa.Column("label_age_hours", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("reason", Words(), nullable=True),
        sa.Column("config_digest", Name(), nullable=True),
        sa.PrimaryKeyConstraint("model_name", "window_start", "label_age_hours", "segment", "metric", "model_version"),
    )
    op.create_table(
        "profiles",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("bins_digest", Name(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "window_start"),
    )
    op.create_table(
        "quality",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("model_version", Name(), nullable=True),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("subject", Name(), nullable=False),
        sa.Column("metric", Name(), nullable=False),
        sa.Column("value", Number(), nullable=True),
        sa.Column("threshold", Number(), nullable=True),
        sa.Column("status", Name(), nullable=False),
        sa.Column("reason", Words(), nullable=True),
        sa.Column("config_digest", Name(), nullable=True),
        sa.Column("expectation", Name(), nullable=True),
        sa.PrimaryKeyConstraint("model_name", "window_start", "subject", "metric"),
    )
    op.create_table(
        "references",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("reference_digest", Name(), nullable=False),
        sa.Column("bins_digest", Name(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.LargeBinary(), nullable=False),
        sa.Column("pieces", sa.LargeBinary(), nullable=False),
        sa.Column("recorded_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "reference_digest"),
    )
    op.create_table(
        "windows",
        sa.Column("model_name", Name(), nullable=False),
        sa.Column("window_start", Moment(), nullable=False),
        sa.Column("window_end", Moment(), nullable=False),
        sa.Column("as_of", Moment(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("manifest_digest", Name(), nullable=True),
        sa.Column("config_digest", Name(), nullable=True),
        sa.Column("status", Name(), nullable=False),
        sa.Column("reason", Words(), nullable=True),
        sa.Column("model_version", Name(), nullable=True),
        sa.Column("duplicate_ids", sa.BigInteger(), nullable=True),
        sa.Column("misplaced_rows", sa.BigInteger(), nullable=True),
        sa.Column("newest_prediction", Moment(), nullable=True),
        sa.Column("engine", Name(), nullable=True),
        sa.Column("details", Words(), nullable=True),
        sa.Column("recorded_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("model_name", "window_start"),
    )


def downgrade() -> None:
    """Take it back."""
    op.drop_table("windows")
    op.drop_table("references")
    op.drop_table("quality")
    op.drop_table("profiles")
    op.drop_table("performance")
    op.drop_table("outcomes")
    op.drop_table("outbox")
    op.drop_table("memory")
    op.drop_index("incidents_by_model", table_name="incidents")
    op.drop_table("incidents")
    op.drop_table("importance")
    op.drop_table("findings")
    op.drop_table("episodes")
    op.drop_table("drift")
    op.drop_table("days")
    op.drop_table("checks")
    op.drop_table("audit")
    op.drop_index("alerts_by_model", table_name="alerts")
    op.drop_table("alerts")
    op.drop_table("acceptances")
