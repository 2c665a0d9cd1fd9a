"""Alerts are a fold over findings in window order.

One per onset, seen again, resolved after quiet windows, re-opened if it comes back within a day.
Running a window again replaces its findings and folds again, so nothing is counted twice. An episode that overlaps one
that was published keeps that one's id, so that nobody is paged twice for it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

RESOLVED_AFTER = 3
# What comes back within a day of its resolution is the same episode: nobody is paged twice for it.
REOPENS_WITHIN = timedelta(hours=24)
# By then it can neither re-open, nor does the longest scale still hold one of its hours.
SETTLED_AFTER = REOPENS_WITHIN + timedelta(hours=24)
_RANK = {"warning": 0, "critical": 1}
Row = dict[str, Any]


@dataclass
class Episode:
    """Findings of one (kind, subject) that belong together."""

    findings: list[Row] = field(default_factory=list)
    resolved_at: datetime | None = None

    @property
    def first(self) -> Row:
        """The finding that opened it: the gravest of its first window."""
        start = self.findings[0]["window_start"]
        return min((f for f in self.findings if f["window_start"] == start), key=_weight)

    @property
    def last(self) -> Row:
        """The newest finding of the metric that opened it."""
        same = [f for f in self.findings if f["metric"] == self.first["metric"]]
        newest = max(f["window_start"] for f in same)
        return min((f for f in same if f["window_start"] == newest), key=_weight)


def _weight(finding: Row) -> tuple[int, int, int, str]:
    """Gravest first; then the shortest scale, the freshest labels."""
    return (-_RANK[finding["severity"]], finding["scale_hours"], finding["label_age_hours"], finding["metric"])


def alert_id(model: str, kind: str, subject: str, metric: str, opened_at: datetime) -> str:
    """Sixteen hex digits that are the same whenever the same alert is derived again."""
    text = f"{model}\0{kind}\0{subject}\0{metric}\0{opened_at.isoformat()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fold(
    findings: Iterable[Row], judged: Mapping[tuple[str, int], Sequence[datetime]], published: Sequence[Row]
) -> list[Row]:
    """Every alert of one model.

    Parameters
    ----------
    findings : rows of the table `findings`
    judged : mapping
        (check, label age) -> starts of the windows that were judged and not empty, ascending.
    published : rows of the table `alerts`
        As they stand; an overlapping episode keeps the id, onset and detection of its row.

    Returns
    -------
    Rows of the table `alerts` by onset, without ``incident_id``.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> at = lambda hour: datetime(2013, 4, 16, hour, tzinfo=UTC)
    >>> base = {"model_name": "m", "check": "drift", "kind": "drift", "subject": "a", "segment": "*", "scale_hours": 1,
    ...         "metric": "ks_statistic", "label_age_hours": 0, "value": 0.5, "baseline": None, "change_percent": None,
    ...         "threshold": 0.1, "severity": "warning", "reason": ""}
    >>> found = [{**base, "window_start": at(h), "detected_at": at(h + 1)} for h in (3, 4)]
    >>> alerts = fold(found, {("drift", 0): [at(h) for h in range(12)]}, [])
    >>> [(a["state"], a["opened_at"].hour, a["last_seen_at"].hour, a["resolved_at"].hour) for a in alerts]
    [('resolved', 4, 5, 8)]
    """
    by_key: dict[tuple[str, str], dict[datetime, list[Row]]] = {}
    for finding in findings:
        windows = by_key.setdefault((finding["kind"], finding["subject"]), {})
        windows.setdefault(finding["window_start"], []).append(finding)
    alerts = []
    unclaimed = sorted(published, key=lambda row: row["opened_at"])
    for key in sorted(by_key):
        episodes = _episodes(_without_echoes(by_key[key]), judged)
        alerts += [_alert(episode, unclaimed) for episode in episodes]
    return sorted(alerts, key=lambda a: (a["opened_at"], a["kind"], a["subject"]))


def _without_echoes(windows: Mapping[datetime, list[Row]]) -> dict[datetime, list[Row]]:
    """Leave out what only repeats: six hours stay bad for five hours after the one bad hour that was found in them."""
    kept: dict[datetime, list[Row]] = {}
    for start in sorted(windows):
        scale = min(f["scale_hours"] for f in windows[start])
        inside = [w for w in kept if start - scale * HOUR < w < start]
        if not any(f["scale_hours"] < scale for w in inside for f in kept[w]):
            kept[start] = windows[start]
    return kept


def _episodes(
    windows: Mapping[datetime, list[Row]], judged: Mapping[tuple[str, int], Sequence[datetime]]
) -> list[Episode]:
    episodes: list[Episode] = []
    for start in sorted(windows):
        if episodes:
            resolved = _resolved(episodes[-1], judged)
            if resolved is None or start < resolved + REOPENS_WITHIN:
                episodes[-1].findings += windows[start]
                continue
            episodes[-1].resolved_at = resolved
        episodes.append(Episode(list(windows[start])))
    if episodes:
        episodes[-1].resolved_at = _resolved(episodes[-1], judged)
    return episodes


def _resolved(episode: Episode, judged: Mapping[tuple[str, int], Sequence[datetime]]) -> datetime | None:
    """End of the third quiet window after the newest finding, at the label age that found it."""
    newest = max(f["window_start"] for f in episode.findings)
    ages = [f["label_age_hours"] for f in episode.findings if f["window_start"] == newest]
    quiet = [w for w in judged.get((episode.first["check"], min(ages)), ()) if w > newest]
    return quiet[RESOLVED_AFTER - 1] + HOUR if len(quiet) >= RESOLVED_AFTER else None


def _alert(episode: Episode, unclaimed: list[Row]) -> Row:
    first, last = episode.first, episode.last
    opened_at = first["window_start"] + HOUR
    last_seen_at = max(f["window_start"] for f in episode.findings) + HOUR
    identity = {
        "alert_id": alert_id(first["model_name"], first["kind"], first["subject"], first["metric"], opened_at),
        "metric": first["metric"],
        "opened_at": opened_at,
        "detected_at": min(f["detected_at"] for f in episode.findings),
    }
    known = next((p for p in unclaimed if _same(p, first, opened_at, episode.resolved_at)), None)
    if known:
        unclaimed.remove(known)  # one published alert is one episode, even when new labels split it in two
        identity = {name: known[name] for name in identity}
    details = {
        "metrics": sorted({f["metric"] for f in episode.findings}),
        "scales_hours": sorted({f["scale_hours"] for f in episode.findings}),
        "label_ages_hours": sorted({f["label_age_hours"] for f in episode.findings}),
        "windows": len({f["window_start"] for f in episode.findings}),
        "onset": first["reason"],
        "onset_scale_hours": first["scale_hours"],
        "latest": last["reason"],
    }
    return {
        **identity,
        "model_name": first["model_name"],
        "kind": first["kind"],
        "severity": max((f["severity"] for f in episode.findings), key=lambda s: _RANK[s]),
        "subject": first["subject"],
        "current_value": last["value"],
        "baseline_value": last["baseline"],
        "change_percent": last["change_percent"],
        "state": "resolved" if episode.resolved_at else "firing",
        "last_seen_at": last_seen_at,
        "resolved_at": episode.resolved_at,
        "details": json.dumps(details),
    }


def _same(known: Row, first: Row, opened_at: datetime, resolved_at: datetime | None) -> bool:
    if (known["kind"], known["subject"]) != (first["kind"], first["subject"]):
        return False
    until = known["resolved_at"]
    return (until is None or opened_at <= until) and (resolved_at is None or known["opened_at"] <= resolved_at)
