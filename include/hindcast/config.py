"""Model files: one YAML per monitored model, validated once, frozen afterwards.

An unknown key, a missing one or a wrong value is refused with the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from datetime import UTC, date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)

from hindcast import baselines
from hindcast.calendar import LONGEST, Calendar, Repeat, moment_of
from hindcast.errors import ConfigError
from hindcast.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DIRECTORY = Path("include/models")
MANUAL = "manual"
_SCALARS = {"str", "int", "float", "bool"}
# What the fields of a cron expression may hold, after the minute: hour, day, month, weekday.
_CRON_RANGES = ((0, 23), (1, 31), (1, 12), (0, 7))

Task = Literal["binary", "multiclass", "regression"]
Kind = Literal["numeric", "categorical"]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _as_moment(value: object) -> datetime:
    """A date of YAML or an ISO 8601 text as a moment; without a zone it is UTC."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("is no moment; allowed: a date or time such as 2013-01-01 or 2013-01-01T15:00Z")


def _as_day(value: object) -> date:
    """A plain date stays one: it is a day on the clock of the schedule. Anything else is a moment."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value.strip()):
        try:
            return date.fromisoformat(value.strip())
        except ValueError:
            pass
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    return _as_moment(value)


def _known_metric(name: str) -> str:
    allowed = [metric.name for metric in METRICS.values() if metric.family == "performance"]
    if name not in allowed:
        message = f"is no performance metric; allowed: {', '.join(allowed)}"
        raise ValueError(message)
    return name


def known_zone(name: str) -> str:
    """Refuse what is no time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = "is no time zone; allowed: a name of the IANA database such as UTC or America/New_York"
        raise ValueError(message) from None
    return name


def _known_cron(expression: str) -> str:
    if expression == MANUAL:
        return expression
    minute, *others = expression.split() or [""]
    fixed = re.fullmatch(r"[0-5]?[0-9]", minute)
    if not (fixed and len(others) == 4 and all(map(_in_cron, others, _CRON_RANGES))):
        message = (
            "is no hourly cron expression; allowed: five fields with a fixed minute, such as '10 * * * *', or 'manual'"
        )
        raise ValueError(message)
    return expression


def _in_cron(field: str, bounds: tuple[int, int]) -> bool:
    """Whether every part of a cron field is ``*``, a number or a range within `bounds`, with or without a step."""
    parts = [re.fullmatch(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/[1-9][0-9]?)?", part) for part in field.split(",")]
    numbers = [int(number) for part in parts if part for number in part.groups() if number]
    return all(parts) and all(bounds[0] <= number <= bounds[1] for number in numbers)


def _known_baseline(name: str) -> str:
    if not baselines.known(name):
        message = f"is no baseline; allowed: {baselines.ALLOWED}"
        raise ValueError(message)
    return name


Moment = Annotated[datetime, BeforeValidator(_as_moment)]
Day = Annotated[date, PlainValidator(_as_day), PlainSerializer(lambda day: day.isoformat())]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Owner(_Section):
    """Who answers for the model."""

    team: str = "unowned"
    oncall: str = "unowned"


class Place(_Section):
    """Where rows lie: a folder, ``s3://bucket/prefix`` or ``bq://project.dataset.table``."""

    uri: str
    connection: str | None = None


class Ready(_Section):
    """When a window's logs are complete, all of what is given; after `wait_minutes` it is read as it stands."""

    marker: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")] | None = None
    min_objects: int | None = Field(None, ge=1)
    min_rows: int | None = Field(None, ge=1)
    wait_minutes: int = Field(30, ge=1, le=300)

    @model_validator(mode="after")
    def _something(self) -> Ready:
        if self.marker is None and self.min_objects is None and self.min_rows is None:
            message = "needs marker, min_objects or min_rows"
            raise ValueError(message)
        return self


class Logs(Place):
    """The prediction logs, and when a window of them is good enough.

    More than the share `max_unreadable` of a window's objects unreadable makes it failed instead of partial. Windows of
    the last `late_hours` are looked at again for files that came late. Of rows with one id, `duplicates` says whether
    all count or one stays.
    """

    max_unreadable: Fraction = 1.0
    late_hours: int = Field(48, ge=0, le=24 * 35)
    duplicates: Literal["count", "drop"] = "count"
    ready: Ready | None = None

    @model_validator(mode="after")
    def _marks(self) -> Logs:
        if self.ready and self.uri.startswith("bq://") and (self.ready.marker or self.ready.min_objects):
            message = f"ready: a table such as {self.uri} has neither a marker nor objects; allowed: min_rows"
            raise ValueError(message)
        return self


class Reference(_Section):
    """Training data: Parquet files, local or in a bucket, a table, or a range of past windows of the logs."""

    uri: str | None = None
    connection: str | None = None
    start: Moment | None = Field(None, alias="from")
    end: Moment | None = Field(None, alias="to")

    @model_validator(mode="after")
    def _complete(self) -> Reference:
        if self.uri is None and (self.start is None or self.end is None):
            message = "needs a uri, or from and to (a range of past windows of the logs)"
            raise ValueError(message)
        if self.start and self.end and self.start >= self.end:
            message = f"from ({self.start.isoformat()}) must lie before to ({self.end.isoformat()})"
            raise ValueError(message)
        return self


class Feature(_Section):
    """What a feature must look like; a key left out is not checked."""

    type: Kind
    min: float | None = None
    max: float | None = None
    values: tuple[str | int | float | bool, ...] | None = None
    max_missing: Fraction | None = None
    store_values: bool = True


class Performance(_Section):
    """How degradation is judged; `threshold` and `critical` are relative changes, as fractions."""

    metrics: tuple[Annotated[str, AfterValidator(_known_metric)], ...] | None = None
    baseline_days: int = Field(7, ge=1, le=90)
    threshold: float = Field(0.05, gt=0)
    critical: float = Field(0.10, gt=0)
    label_ages_hours: tuple[Annotated[int, Field(ge=0, le=24 * 90)], ...] = Field((0, 6, 24), min_length=1)
    min_label_coverage: Fraction = 0.5
    max_segment_values: int = Field(20, ge=1, le=1000)

    @model_validator(mode="after")
    def _ordered(self) -> Performance:
        if self.threshold > self.critical:
            message = f"threshold ({self.threshold:g}) must not exceed critical ({self.critical:g})"
            raise ValueError(message)
        return self


class Drift(_Section):
    """How drift is judged; see docs/alert-policy.md.

    `effect_floor` is the smallest effect at 1 hour that matters, in σ or Jensen-Shannon distance; at longer scales it
    is smaller in the policy's own proportion. `scales` are the hours of the windows that may wake somebody. A level
    that an alert was about is accepted after `accept_after_hours`, or never. `baselines` are what the rows of the table
    `drift` are held against; without `reference` or `seasonal` the policy does not judge by it either.
    """

    budget_false_alarms_per_week: float = Field(1.0, gt=0, le=100)
    seasonal_weeks: int = Field(4, ge=1, le=8)
    bins: int = Field(1024, ge=16, le=4096)
    effect_floor: float = Field(0.10, ge=0, le=10)
    scales: tuple[Literal[1, 6, 24], ...] | None = Field(None, min_length=1)
    accept_after_hours: int | None = Field(168, ge=24, le=24 * 365)
    baselines: tuple[Annotated[str, AfterValidator(_known_baseline)], ...] = Field(baselines.DEFAULT, min_length=1)

    @model_validator(mode="after")
    def _something_decides(self) -> Drift:
        if not {"reference", "seasonal"}.intersection(self.baselines):
            message = "baselines must hold reference or seasonal: only these decide, the others are shown beside them"
            raise ValueError(message)
        return self


class Quiet(_Section):
    """A holiday or a planned change: nothing in it wakes anybody, and its hours leave the baselines.

    Without `subjects` it is about everything; else about these features, ``column=value`` segments, or ``*`` (what
    concerns the whole model).
    """

    start: Day = Field(alias="from")
    end: Day = Field(alias="to")
    reason: str = Field(min_length=1, max_length=200)
    subjects: tuple[str, ...] | None = Field(None, min_length=1)
    repeat: Repeat | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Quiet:
        # Zones differ by less than a day, so that whose midnight is meant decides nothing here.
        length = moment_of(self.end, ZoneInfo("UTC")) - moment_of(self.start, ZoneInfo("UTC"))
        if length.total_seconds() <= 0:
            message = f"from ({self.start.isoformat()}) must lie before to ({self.end.isoformat()}), which is exclusive"
            raise ValueError(message)
        if self.repeat and length > LONGEST[self.repeat]:
            message = f"{self.start.isoformat()} to {self.end.isoformat()} is too long to be repeated {self.repeat}"
            raise ValueError(message)
        return self


class Quality(_Section):
    """Expectations about the window as a whole."""

    max_duplicates: Fraction = 0.0
    max_misplaced: Fraction = 0.0


class Artifact(_Section):
    """The model itself, for explanations; loaded only if its sha256 matches."""

    uri: str
    connection: str | None = None
    format: Literal["lightgbm", "xgboost", "sklearn", "onnx", "mlflow"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    allow_pickle: bool = False


class Explain(_Section):
    """Global SHAP importance of a seeded sample of the window."""

    model: Artifact | None = None
    method: Literal["auto", "native", "tree", "permutation"] = "auto"
    sample_rows: int = Field(3000, ge=10, le=100_000)


class BusinessMetric(_Section):
    """A column of the logs summed or averaged per window."""

    column: str
    aggregate: Literal["sum", "mean"] = "sum"
    worse: Literal["lower", "higher"] = "lower"


class Alerting(_Section):
    """Limits of the rules of Prometheus, which `hindcast metrics rules` writes; no result depends on them."""

    latency_p95_ms: float | None = Field(None, gt=0)
    error_rate: Fraction = 0.05
    throughput_drop: Fraction = 0.5
    checks_stale_hours: float = Field(3.0, gt=0)
    predictions_stale_hours: float = Field(3.0, gt=0)
    labels_stale_hours: float | None = Field(None, gt=0)


class Schedule(_Section):
    """When a window is checked: a cron expression, or ``manual`` for never by itself.

    `timezone` is where seasons are counted, so that daylight saving shifts nothing.
    """

    hourly: Annotated[str, AfterValidator(_known_cron)] | None = None
    settle_minutes: int = Field(10, ge=0, le=24 * 60)
    timezone: Annotated[str, AfterValidator(known_zone)] = "UTC"


class Spark(_Section):
    """Where Spark runs: an Airflow Connection with master, conf and packages; `auto` uses it from this size on."""

    connection: str = "spark_default"
    above_gb: float = Field(50.0, ge=0)


class BigQuery(_Section):
    """`auto` streams smaller windows into this process; no query may bill more than the limit (10⁹ bytes each)."""

    stream_below_gb: float = Field(1.0, ge=0)
    max_gb_billed: float = Field(100.0, gt=0)


class Resources(_Section):
    """What Airflow gives the tasks that read rows: pool, queue (Celery), executor_config (Kubernetes)."""

    pool: str | None = None
    pool_slots: int = Field(1, ge=1)
    queue: str | None = None
    executor_config: dict[str, Any] = {}


class ModelFile(_Section):
    """One monitored model."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
    owner: Owner = Owner()
    task: Task
    positive_class: str | int | float | bool = 1
    logs: Logs
    labels: Place | None = None
    reference: Reference
    features: dict[str, Feature] = {}
    segments: tuple[str, ...] = ()
    performance: Performance = Performance()
    drift: Drift = Drift()
    quality: Quality = Quality()
    explain: Explain = Explain()
    business: dict[str, BusinessMetric] = {}
    quiet: tuple[Quiet, ...] = ()
    schedule: Schedule = Schedule()
    alerting: Alerting = Alerting()
    engine: Literal["auto", "local", "spark", "bigquery"] = "auto"
    spark: Spark | None = None
    bigquery: BigQuery = BigQuery()
    resources: Resources = Resources()
    path: Path = Field(Path(), exclude=True)

    @model_validator(mode="after")
    def _known_subjects(self) -> ModelFile:
        """Refuse a quiet entry about something that the file does not have: it would silence nothing."""
        for k, entry in enumerate(self.quiet):
            for subject in entry.subjects or ():
                column, segment, _ = subject.partition("=")
                known: tuple[str, ...] = self.segments if segment else (*self.features, "*")
                if column not in known and (segment or self.features):
                    what = "segment" if segment else "feature"
                    message = f"quiet.{k}.subjects: {subject!r} is about no {what} of the file; known: "
                    raise ValueError(message + (", ".join(known) or "none"))
        return self

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that change when any key does that a result may depend on; stored with every row."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True, exclude={"alerting"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def calendar(self) -> Calendar:
        """Holidays and planned changes."""
        return Calendar(self.quiet, self.zone)

    @property
    def zone(self) -> ZoneInfo:
        """Time zone of the seasons."""
        return ZoneInfo(self.schedule.timezone)

    def resolve(self, uri: str) -> str:
        """Make a relative path absolute; it is relative to the model file's own directory."""
        if uri.startswith("file://"):
            uri = uri.removeprefix("file://").removeprefix("localhost")
        elif "://" in uri:
            return uri
        return str((self.path.parent / uri).resolve())


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of taking the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            message = f"key {key!r} stands twice, line {node.start_mark.line + 1} and below"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section that `location` points into."""
    section: Any = ModelFile
    for part in location:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            break
        field = next((f for n, f in section.model_fields.items() if part in (n, f.alias)), None)
        if field is None:
            break
        section = _section_of(field.annotation)
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return []
    return [f.alias or n for n, f in section.model_fields.items() if n != "path"]


def _section_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_section_of(a) for a in getattr(annotation, "__args__", ())]
    return next((s for s in inner if s is not None), None)


def _explain(error: Any) -> str:
    """One line of a refusal: key, value, what is allowed."""
    location = tuple(part for part in error["loc"] if not (isinstance(part, str) and part.startswith("function-")))
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        allowed = _allowed_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{key}: unknown key {str(location[-1])!r}{hint}; allowed: {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{key}: required key is missing"
    if error["type"] in {"frozen_instance", "model_type", "dict_type"}:
        return f"{key}: got {error['input']!r}; allowed: a mapping"
    message = re.sub(
        r"^(Input|String|Tuple|Keys) should (be )?", "allowed: ", error["msg"].removeprefix("Value error, ")
    )
    message = message.replace("a valid tuple", "a list")
    if not location:  # a rule between sections: its message names the key
        return message
    if location and location[-1] in _SCALARS:  # one branch of several kinds of scalars
        key, message = key.rpartition(".")[0], "allowed: a text, a number, true or false"
    value = error["input"]
    shown = f"got {value!r}; " if not isinstance(value, dict) else ""
    return f"{key}: {shown}{message}"


def load(path: Path) -> ModelFile:
    """Read and validate one model file.

    Raises
    ------
    ConfigError
        Not readable, not YAML, or a key is unknown, missing or wrong: every fault in one message.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: cannot be read: {error}"
        raise ConfigError(message) from error
    # PyYAML lets Python's own errors through: a day 2013-13-45, an !!int of letters, brackets without end.
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        message = f"{path}: is no valid YAML: {' '.join(str(error).split())}"
        raise ConfigError(message) from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds {content!r:.60}"
        message = f"{path}: {found}; allowed: a mapping with keys {', '.join(_allowed_keys(()))}"
        raise ConfigError(message)
    if "path" in content:
        message = f"{path}: path: unknown key 'path'; allowed: {', '.join(_allowed_keys(()))}"
        raise ConfigError(message)
    try:
        return ModelFile.model_validate({**content, "path": path.absolute()})
    except ValidationError as error:
        lines = dict.fromkeys(f"{path}: {_explain(detail)}" for detail in error.errors())
        raise ConfigError("\n".join(lines)) from None


def location(given: str | os.PathLike[str] | None = None) -> Path:
    """Where model files are: what was given, else HINDCAST_CONFIG, else ``include/models``."""
    return Path(given or os.environ.get("HINDCAST_CONFIG") or DEFAULT_DIRECTORY)


def paths(given: str | os.PathLike[str] | None = None) -> list[Path]:
    """Every model file, by name.

    Raises
    ------
    ConfigError
        The place does not exist.
    """
    place = location(given)
    if place.is_dir():
        return sorted(p for p in place.iterdir() if p.suffix in {".yaml", ".yml"})
    if place.is_file():
        return [place]
    looked = f"--config, HINDCAST_CONFIG or {DEFAULT_DIRECTORY}"
    message = f"{place}: no such file or directory; model files are looked for in {looked}"
    raise ConfigError(message)


def load_all(given: str | os.PathLike[str] | None = None) -> Iterator[ModelFile | ConfigError]:
    """Every model file, validated; one bad file is yielded as its error and stops no other."""
    seen: dict[str, Path] = {}
    for path in paths(given):
        try:
            model = load(path)
        except ConfigError as error:
            yield error
            continue
        if model.model in seen:
            message = f"{path}: model: {model.model!r} is already the name in {seen[model.model]}"
            yield ConfigError(message)
            continue
        seen[model.model] = path
        yield model


def find(name: str, given: str | os.PathLike[str] | None = None) -> ModelFile:
    """The model file of `name`.

    Raises
    ------
    ConfigError
        No file has that name, or the file that should is wrong.
    """
    known: list[str] = []
    faults: list[str] = []
    for item in load_all(given):
        if isinstance(item, ConfigError):
            faults.append(str(item))
        elif item.model == name:
            return item
        else:
            known.append(item.model)
    message = f"unknown model {name!r} in {location(given)}; known: {', '.join(known) or 'none'}"
    raise ConfigError("\n".join([message, *faults]))
