"""Alerts are a fold over findings in window order.

One per onset, seen again, resolved after quiet windows or when its level is accepted, re-opened if it comes back within
a day of quiet. What is planned opens nothing, and an alert that is open stands still meanwhile.
Running a window again replaces its findings and folds again, so nothing is counted twice. An episode that overlaps one
that was published keeps that one's id, so that nobody is paged twice for it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from hindcast.window import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    # (subject, start of the newest hour, hours) -> why it is planned, or nothing.
    Planned = Callable[[str, datetime, int], str]

RESOLVED_AFTER = 3
# What comes back within a day of its resolution is the same episode: nobody is paged twice for it.
REOPENS_WITHIN = timedelta(hours=24)
# By then it can neither re-open, nor does the longest scale still hold one of its hours.
SETTLED_AFTER = REOPENS_WITHIN + timedelta(hours=24)
# Of the kind quality, what is judged against a baseline and not against a limit.
LEVELS = {"missing_ratio_change"}
_RANK = {"warning": 0, "critical": 1}
Row = dict[str, Any]


@dataclass
class Episode:
    """Findings of one (kind, subject) that belong together, by window."""

    findings: list[Row] = field(default_factory=list)
    resolved_at: datetime | None = None
    accepted: Row | None = None

    @cached_property
    def first(self) -> Row:
        """The finding that opened it: the gravest of its first window, which an episode is made with."""
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


def _never(_subject: str, _start: datetime, _scale: int) -> str:
    return ""


def fold(
    findings: Iterable[Row],
    judged: Mapping[tuple[str, int], Sequence[datetime]],
    published: Sequence[Row],
    *,
    acceptances: Sequence[Row] = (),
    planned: Planned = _never,
) -> list[Row]:
    """Every alert of one model.

    Parameters
    ----------
    findings : rows of the table `findings`
        Planned ones are passed over.
    judged : mapping
        (check, label age) -> starts of the windows that were judged and not empty, ascending.
    published : rows of the table `alerts`
        As they stand; an overlapping episode keeps the id, onset and detection of its row.
    acceptances : rows of the table `acceptances`
        An episode that is open at such a moment ends there; what is found later is another.
    planned : callable
        Planned windows are not quiet ones.

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
        if finding.get("planned"):
            continue
        windows = by_key.setdefault((finding["kind"], finding["subject"]), {})
        windows.setdefault(finding["window_start"], []).append(finding)
    alerts = []
    unclaimed = sorted(published, key=lambda row: row["opened_at"])
    for key in sorted(by_key):
        accepted = [row for row in acceptances if (row["kind"], row["subject"]) == key]
        accepted.sort(key=lambda row: row["accepted_at"])
        episodes = _episodes(_without_echoes(by_key[key]), judged, accepted, planned)
        alerts += [_alert(episode, unclaimed) for episode in episodes]
    return sorted(alerts, key=lambda a: (a["opened_at"], a["kind"], a["subject"]))


def _without_echoes(windows: Mapping[datetime, list[Row]]) -> dict[datetime, list[Row]]:
    """Leave out what only repeats: six hours stay bad for five hours after the one bad hour that was found in them."""
    kept: dict[datetime, list[Row]] = {}
    for start in sorted(windows):
        scale = min(f["scale_hours"] for f in windows[start])
        inside = (start - k * HOUR for k in range(1, scale))
        if not any(f["scale_hours"] < scale for w in inside for f in kept.get(w, ())):
            kept[start] = windows[start]
    return kept


def _episodes(
    windows: Mapping[datetime, list[Row]],
    judged: Mapping[tuple[str, int], Sequence[datetime]],
    accepted: Sequence[Row],
    planned: Planned,
) -> list[Episode]:
    episodes: list[Episode] = []
    for start in sorted(windows):
        if episodes:
            _end(episodes[-1], judged, accepted, planned, until=start)
            ended = episodes[-1].resolved_at
            if not episodes[-1].accepted and (ended is None or start < ended + REOPENS_WITHIN):
                episodes[-1].findings += windows[start]
                continue
        episodes.append(Episode(list(windows[start])))
    if episodes:
        _end(episodes[-1], judged, accepted, planned)
    return episodes


def _end(
    episode: Episode,
    judged: Mapping[tuple[str, int], Sequence[datetime]],
    accepted: Sequence[Row],
    planned: Planned,
    *,
    until: datetime | None = None,
) -> None:
    """Find when an episode ended: when it was accepted while open, else after its quiet windows, else not yet."""
    quiet = _resolved(episode, judged, planned)
    opened_at = episode.first["window_start"] + HOUR
    if accepted and not ends_accepted(episode.first["kind"], {f["metric"] for f in episode.findings}):
        accepted = ()
    within = (
        row
        for row in accepted
        if opened_at <= row["accepted_at"]
        and (until is None or row["accepted_at"] <= until)
        and (quiet is None or row["accepted_at"] < quiet)
    )
    episode.accepted = next(within, None)
    episode.resolved_at = episode.accepted["accepted_at"] if episode.accepted else quiet


def _resolved(
    episode: Episode, judged: Mapping[tuple[str, int], Sequence[datetime]], planned: Planned
) -> datetime | None:
    """End of the third quiet window after the newest finding, at the label age that found it."""
    newest = episode.findings[-1]["window_start"]
    latest = list(takewhile(lambda f: f["window_start"] == newest, reversed(episode.findings)))
    age, scale = min(f["label_age_hours"] for f in latest), min(f["scale_hours"] for f in latest)
    subject, found = episode.first["subject"], 0
    windows = judged.get((episode.first["check"], age), ())
    for window in windows[bisect_right(windows, newest) :]:
        if not planned(subject, window, scale):
            found += 1
            if found == RESOLVED_AFTER:
                return window + HOUR
    return None


def ends_accepted(kind: str, metrics: Collection[str]) -> bool:
    """Whether an alert ends when its level is accepted: a limit of the model file goes on being broken.

    Examples
    --------
    >>> ends_accepted("drift", ["ks_statistic"]), ends_accepted("quality", ["missing_ratio", "missing_ratio_change"])
    (True, False)
    """
    return kind in {"drift", "performance"} or set(metrics) <= LEVELS


def due(
    alerts: Iterable[Row], end: datetime, after_hours: Mapping[str, int | None], acceptances: Sequence[Row]
) -> list[Row]:
    """Alerts whose level is accepted by itself at `end`: open then, for so many hours, and not accepted before.

    Parameters
    ----------
    alerts : rows of the table `alerts`
    end : datetime
        First moment after the window that is being judged.
    after_hours : mapping
        Kind -> hours after which a level is accepted; None or not there is never.
    acceptances : rows of the table `acceptances`

    Returns
    -------
    Those of `alerts` that are about a level at all, as distributions, ratios and performance are.
    """
    known = {row["alert_id"] for row in acceptances}
    found = []
    for alert in alerts:
        hours = after_hours.get(alert["kind"])
        is_open = alert["opened_at"] <= end and (alert["resolved_at"] is None or alert["resolved_at"] > end)
        ripe = hours is not None and alert["opened_at"] + hours * HOUR <= end
        if is_open and ripe and alert["alert_id"] not in known and is_level(alert):
            found.append(alert)
    return found


def is_level(alert: Mapping[str, Any]) -> bool:
    """Whether an alert is about a level that can become the usual one."""
    return alert["kind"] in {"drift", "performance"} or bool(LEVELS & set(json.loads(alert["details"])["metrics"]))


def acceptance_of(alert: Mapping[str, Any], accepted_at: datetime, **said: Any) -> Row:
    """Row of the table `acceptances`: the level since the alert's first hour is the usual one from `accepted_at` on."""
    return {
        **{name: alert[name] for name in ("model_name", "kind", "subject", "alert_id")},
        "accepted_at": accepted_at,
        "since": alert["opened_at"] - HOUR,
        **said,
    }


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
        "details": json.dumps(_details(episode)),
    }


def _details(episode: Episode) -> Row:
    """What an alert is made of, in the words of its findings."""
    first = episode.first
    details = {
        "metrics": sorted({f["metric"] for f in episode.findings}),
        "scales_hours": sorted({f["scale_hours"] for f in episode.findings}),
        "label_ages_hours": sorted({f["label_age_hours"] for f in episode.findings}),
        "windows": len({f["window_start"] for f in episode.findings}),
        "onset": first["reason"],
        "onset_scale_hours": first["scale_hours"],
        "latest": episode.last["reason"],
    }
    if episode.accepted:
        details["resolution"] = resolution(episode.accepted)
    return details


def resolution(accepted: Mapping[str, Any]) -> str:
    """How an acceptance is said.

    Examples
    --------
    >>> resolution({"actor": "kim", "reason": "new tariff"}), resolution({"actor": "hindcast", "reason": ""})
    ('accepted by kim: new tariff', 'accepted by hindcast')
    """
    return f"accepted by {accepted['actor']}" + (f": {accepted['reason']}" if accepted["reason"] else "")


def _same(known: Row, first: Row, opened_at: datetime, resolved_at: datetime | None) -> bool:
    if (known["kind"], known["subject"]) != (first["kind"], first["subject"]):
        return False
    until = known["resolved_at"]
    return (until is None or opened_at <= until) and (resolved_at is None or known["opened_at"] <= resolved_at)
