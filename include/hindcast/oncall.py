"""Who is on call: weekly rotations with overrides, on the clock of a place, and Alertmanager's routes made of them.

Shifts are kept in local wall-clock time, and so is what Alertmanager is told (its time intervals have a location): a
handover at nine stays at nine when summer time begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hindcast.config import known_zone
from hindcast.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEEK = timedelta(days=7)
SECRETS = "/etc/alertmanager/secrets"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reach(_Section):
    """How somebody, or a channel, is reached; with `webhook_token`, a bearer token stands in a file of the secrets."""

    email: str | None = None
    slack: str | None = None
    pagerduty: bool = False
    webhook: str | None = None
    webhook_token: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Reach:
        if self.webhook_token and not self.webhook:
            message = "webhook_token is of a webhook, and there is none"
            raise ValueError(message)
        return self


class Override(_Section):
    """Somebody else, for a while, on the rotation's own clock."""

    start: datetime = Field(alias="from")
    end: datetime = Field(alias="to")
    person: str

    @model_validator(mode="after")
    def _ordered(self) -> Override:
        if self.start.tzinfo or self.end.tzinfo:
            message = "from and to are on the rotation's clock: they take no zone"
            raise ValueError(message)
        if self.start >= self.end:
            message = f"from ({self.start.isoformat()}) must lie before to ({self.end.isoformat()})"
            raise ValueError(message)
        return self


class Rotation(_Section):
    """A week each."""

    owners: tuple[str, ...] = Field(min_length=1)
    timezone: Annotated[str, AfterValidator(known_zone)]
    start: date = Field(alias="from")
    handover: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
    people: tuple[str, ...] = Field(min_length=1)
    overrides: tuple[Override, ...] = ()


class Mail(_Section):
    """The mail server; its password is the file `smtp` of the secrets."""

    sender: str = Field(alias="from")
    smarthost: str
    username: str | None = None


class OnCall(_Section):
    """The file `oncall.yaml`."""

    until: date
    rotations: dict[str, Rotation]
    people: dict[str, Reach]
    channels: dict[str, Reach] = {}
    default: Reach
    heartbeat: Reach
    email: Mail | None = None

    @model_validator(mode="after")
    def _known(self) -> OnCall:
        for name, rotation in self.rotations.items():
            unknown = {*rotation.people, *(o.person for o in rotation.overrides)} - set(self.people)
            if unknown:
                message = f"rotations.{name}: {min(unknown)!r} is none of people: {', '.join(self.people)}"
                raise ValueError(message)
        owned = [owner for rotation in self.rotations.values() for owner in rotation.owners]
        if len(set(owned)) < len(owned):
            message = f"rotations: an owner stands in two of them: {', '.join(sorted(owned))}"
            raise ValueError(message)
        unknown = set(self.channels) - set(self.rotations)
        if unknown:
            message = f"channels: {min(unknown)!r} is no rotation; known: {', '.join(self.rotations)}"
            raise ValueError(message)
        reached = [*self.people.values(), *self.channels.values(), self.default, self.heartbeat]
        if self.email is None and any(reach.email for reach in reached):
            message = "email: is needed (from, smarthost), since somebody is reached by it"
            raise ValueError(message)
        return self


@dataclass(frozen=True)
class Shift:
    """One person, from a wall-clock moment up to another."""

    person: str
    start: datetime
    end: datetime


def load(path: Path) -> OnCall:
    """Read and validate the file.

    Raises
    ------
    ConfigError
        With file, key and what is wrong.
    """
    try:
        return OnCall.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{path}: cannot be read: {' '.join(str(error).split())}"
        raise ConfigError(message) from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None


def shifts(rotation: Rotation, until: date) -> list[Shift]:
    """Every shift up to a day's beginning, overrides cut in, in order; two of one person are one.

    Examples
    --------
    >>> week = Rotation.model_validate({"owners": ["o"], "timezone": "UTC", "from": "2026-11-23", "handover": "09:00",
    ...     "people": ["ada", "ben"], "overrides": [{"from": "2026-11-28", "to": "2026-11-29", "person": "ben"}]})
    >>> [(s.person, f"{s.start:%d %H}") for s in shifts(week, date(2026, 12, 2))]
    [('ada', '23 09'), ('ben', '28 00'), ('ada', '29 00'), ('ben', '30 09')]
    """
    first = datetime.combine(rotation.start, time.fromisoformat(rotation.handover))
    last = datetime.combine(until, time())
    cuts = {first, last}
    turns = 0
    while first + turns * WEEK < last:
        cuts.add(first + turns * WEEK)
        turns += 1
    cuts |= {moment for o in rotation.overrides for moment in (o.start, o.end) if first < moment < last}
    ordered, found = sorted(cuts), list[Shift]()
    for start, end in pairwise(ordered):
        person = _person(rotation, first, start)
        if found and found[-1].person == person:
            found[-1] = Shift(person, found[-1].start, end)
        else:
            found.append(Shift(person, start, end))
    return found


def _person(rotation: Rotation, first: datetime, moment: datetime) -> str:
    for override in reversed(rotation.overrides):  # the one written last wins
        if override.start <= moment < override.end:
            return override.person
    return rotation.people[(moment - first) // WEEK % len(rotation.people)]


def on_call(rotation: Rotation, until: date, moment: datetime) -> Shift | None:
    """The shift of a moment; None before the rotation begins and after it is rendered."""
    local = moment.astimezone(ZoneInfo(rotation.timezone)).replace(tzinfo=None)
    return next((shift for shift in shifts(rotation, until) if shift.start <= local < shift.end), None)


def standing(rotation: Rotation, until: date, moment: datetime) -> dict[str, Any]:
    """Who is on call at a moment, since and until when, and who follows; moments with their zone."""
    zone = ZoneInfo(rotation.timezone)
    shift = on_call(rotation, until, moment)
    if shift is None:
        return {"person": None, "from": None, "until": None, "next": None}
    follows = next((s.person for s in shifts(rotation, until) if s.start == shift.end), None)
    ends_at = {
        "from": shift.start.replace(tzinfo=zone).isoformat(),
        "until": shift.end.replace(tzinfo=zone).isoformat(),
    }
    return {"person": shift.person, **ends_at, "next": follows}


def said(row: dict[str, Any]) -> str:
    """The same in words."""
    if row["person"] is None:
        return "nobody; pages reach the channel only"
    return f"{row['person']} until {row['until']}, then {row['next'] or 'nobody: the rotation ends'}"


def ends(oncall: OnCall) -> datetime:
    """Until when all rotations are rendered."""
    zones = [ZoneInfo(rotation.timezone) for rotation in oncall.rotations.values()]
    return min(
        (datetime.combine(oncall.until, time(), zone) for zone in zones), default=datetime.max.replace(tzinfo=UTC)
    )


# --- Alertmanager ---


def alertmanager(oncall: OnCall, secrets: str = SECRETS) -> dict[str, Any]:
    """Alertmanager's configuration.

    A page (severity critical) goes to whoever is on call, and with everything else to the channel of its rotation.
    """
    routes: list[dict[str, Any]] = [
        {"matchers": ['class="heartbeat"'], "receiver": "heartbeat", "group_wait": "0s", "group_interval": "1m",
         "repeat_interval": "5m"}
    ]  # fmt: skip
    intervals, receivers = (
        [],
        [_receiver("default", oncall.default, secrets), _receiver("heartbeat", oncall.heartbeat, secrets)],
    )
    receivers += [_receiver(f"person-{name}", reach, secrets) for name, reach in oncall.people.items()]
    receivers += [_receiver(f"channel-{name}", reach, secrets) for name, reach in oncall.channels.items()]
    for name, rotation in oncall.rotations.items():
        turns: dict[str, list[Shift]] = {}
        for shift in shifts(rotation, oncall.until):
            turns.setdefault(shift.person, []).append(shift)
        pages = [
            {"matchers": ['severity="critical"'], "receiver": f"person-{person}", "continue": True,
             "active_time_intervals": [f"{name}-{person}"], "repeat_interval": "4h"}
            for person in turns
        ]  # fmt: skip
        channel = f"channel-{name}" if name in oncall.channels else "default"
        owners = "|".join(rotation.owners)
        routes.append(
            {"matchers": [f'owner=~"{owners}"'], "receiver": channel, "routes": [*pages, {"receiver": channel}]}
        )
        for person, own in turns.items():
            made = [interval for shift in own for interval in _intervals(shift, rotation.timezone)]
            intervals.append({"name": f"{name}-{person}", "time_intervals": made})
    top = {"receiver": "default", "group_by": ["owner", "model_name"], "group_wait": "30s", "group_interval": "5m",
           "repeat_interval": "12h", "routes": routes}  # fmt: skip
    found = {"route": top, "inhibit_rules": INHIBITIONS, "receivers": receivers, "time_intervals": intervals}
    return {"global": _global(oncall, secrets), **found}


# What stands above silences what follows from it.
INHIBITIONS: list[dict[str, Any]] = [
    # An incident names its symptoms itself.
    {"source_matchers": ['class="incident"'], "target_matchers": ['class="symptom"'], "equal": ["model_name"]},
    # What is not current says nothing about now.
    {"source_matchers": ['class="staleness"', 'severity="critical"'], "target_matchers": ['class="symptom"'],
     "equal": ["model_name"]},
    {"source_matchers": ['alertname="HindcastChecksStale"'], "target_matchers": [
        'alertname=~"HindcastPredictionsStale|HindcastLabelsStale|HindcastCheckFailing"'], "equal": ["model_name"]},
    # A gateway that is down makes every model look stale.
    {"source_matchers": ['alertname="HindcastGatewayDown"'], "target_matchers": ['class=~"staleness|symptom"']},
]  # fmt: skip


def _global(oncall: OnCall, secrets: str) -> dict[str, Any]:
    found: dict[str, Any] = {"resolve_timeout": "5m"}
    reached = [*oncall.people.values(), *oncall.channels.values(), oncall.default, oncall.heartbeat]
    if any(reach.slack for reach in reached):
        found["slack_api_url_file"] = f"{secrets}/slack"
    if oncall.email:
        found |= {"smtp_from": oncall.email.sender, "smtp_smarthost": oncall.email.smarthost}
        if oncall.email.username:
            found |= {"smtp_auth_username": oncall.email.username, "smtp_auth_password_file": f"{secrets}/smtp"}
    return found


_TITLE = "{{ .CommonLabels.severity }}: {{ (index .Alerts 0).Annotations.summary }}"
_LINES = "\n".join(f"{{{{ .Annotations.{name} }}}}" for name in ("summary", "description", "runbook_url"))
_REPORT = "{{ with .Annotations.report_url }}\n{{ . }}{{ end }}"
_TEXT = f"{{{{ range .Alerts }}}}{_LINES}{_REPORT}\n{{{{ end }}}}"


def _receiver(name: str, reach: Reach, secrets: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name}
    whose = name.partition("-")[2] or name
    if reach.webhook:
        signed = {"http_config": {"authorization": {"credentials_file": f"{secrets}/webhook_{whose}"}}}
        hook = {"url": reach.webhook, "send_resolved": True, **(signed if reach.webhook_token else {})}
        found["webhook_configs"] = [hook]
    if reach.pagerduty:
        key = f"{secrets}/pagerduty_{whose}"
        link = {"href": "{{ (index .Alerts 0).Annotations.runbook_url }}", "text": "runbook"}
        found["pagerduty_configs"] = [{"routing_key_file": key, "description": _TITLE, "links": [link]}]
    if reach.slack:
        found["slack_configs"] = [{"channel": reach.slack, "send_resolved": True, "title": _TITLE, "text": _TEXT}]
    if reach.email:
        found["email_configs"] = [
            {"to": reach.email, "send_resolved": True, "headers": {"Subject": _TITLE}, "text": _TEXT}
        ]
    return found


def _intervals(shift: Shift, zone: str) -> Iterator[dict[str, Any]]:
    """Parts of a shift that one entry of Alertmanager's time intervals can say: part of a day, or days of one month."""
    moment = shift.start
    while moment < shift.end:
        midnight = datetime.combine(moment.date() + timedelta(days=1), time())
        if moment.time() != time() or midnight > shift.end:
            end = min(midnight, shift.end)
            until = "24:00" if end == midnight else f"{end:%H:%M}"
            part: dict[str, Any] = {"times": [{"start_time": f"{moment:%H:%M}", "end_time": until}]}
            last = moment
        else:
            following = datetime.combine((moment.replace(day=1) + timedelta(days=32)).replace(day=1).date(), time())
            end = min(following, datetime.combine(shift.end.date(), time()))
            part, last = {}, end - timedelta(days=1)
        days = f"{moment.day}:{last.day}" if last.day > moment.day else str(moment.day)
        yield {
            **part,
            "days_of_month": [days],
            "months": [str(moment.month)],
            "years": [str(moment.year)],
            "location": zone,
        }
        moment = end
