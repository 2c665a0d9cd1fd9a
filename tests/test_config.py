"""Model files: what is refused, how it is said, and what the digest depends on."""

import re
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindcast import config
from hindcast.errors import ConfigError

SMALLEST = {"model": "m", "task": "binary", "logs": {"uri": "logs"}, "reference": {"uri": "train.parquet"}}


def write(folder: Path, content: object, name: str = "m.yaml") -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = textwrap.dedent(content) if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, content: object) -> str:
    path = write(folder, content)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    message = str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in message.splitlines())
    assert caught.value.exit_status == 2
    return message.replace(f"{path}: ", "")


def with_(**keys: object) -> dict[str, object]:
    return {**SMALLEST, **keys}


def test_the_smallest_file_has_every_default(tmp_path: Path) -> None:
    model = config.load(write(tmp_path, SMALLEST))
    assert (model.performance.baseline_days, model.performance.threshold, model.performance.critical) == (7, 0.05, 0.10)
    assert model.performance.label_ages_hours == (0, 6, 24)
    assert (model.schedule.settle_minutes, str(model.zone), model.positive_class) == (10, "UTC", 1)


WRONG = {
    "unknown key": (with_(tsk=1), "tsk: unknown key 'tsk' (did you mean 'task'?); allowed: model, owner, task"),
    "unknown key, nothing near": (with_(zzzzzz=1), "zzzzzz: unknown key 'zzzzzz'; allowed: model"),
    "unknown key below": (
        with_(features={"a": {"type": "numeric", "mim": 1}}),
        "features.a.mim: unknown key 'mim' (did you mean 'min'?); allowed: type, min, max",
    ),
    "unknown key in an optional section": (
        with_(explain={"model": {"uri": "a", "format": "onnx", "sha": "x"}}),
        "explain.model.sha: unknown key 'sha' (did you mean 'sha256'?); allowed: uri, connection, format, sha256",
    ),
    "own field": (with_(path="/etc/passwd"), "path: unknown key 'path'; allowed: model"),
    "python's name of a key": (with_(reference={"start": 1}), "reference.start: unknown key 'start'"),
    "missing": ({"model": "m"}, "logs: required key is missing"),
    "missing below": (with_(logs={}), "logs.uri: required key is missing"),
    "no mapping": (with_(logs="logs"), "logs: got 'logs'; allowed: a mapping"),
    "no list": (with_(segments="carrier"), "segments: got 'carrier'; allowed: a list"),
    "wrong type": (with_(logs={"uri": 5}), "logs.uri: got 5; allowed: a valid string"),
    "wrong number": (
        with_(features={"a": {"type": "numeric", "min": "low"}}),
        "features.a.min: got 'low'; allowed: a valid n",
    ),
    "not finite": (
        with_(performance={"threshold": float("nan")}),
        "performance.threshold: got nan; allowed: a finite number",
    ),
    "too small": (with_(drift={"bins": 3}), "drift.bins: got 3; allowed: greater than or equal to 16"),
    "wrong enum": (with_(task="regresion"), "task: got 'regresion'; allowed: 'binary', 'multiclass' or 'regression'"),
    "wrong class": (with_(positive_class=[1]), "positive_class: got [1]; allowed: a text, a number, true or false"),
    "empty list": (
        with_(performance={"label_ages_hours": []}),
        "performance.label_ages_hours: got []; allowed: have at least 1",
    ),
    "unsafe name": (with_(model="../../etc"), "model: got '../../etc'; allowed: match pattern"),
    "sha256": (
        with_(explain={"model": {"uri": "a", "format": "onnx", "sha256": "ABC"}}),
        "explain.model.sha256: got 'ABC'; allowed: match pattern '^[0-9a-f]{64}$'",
    ),
    "metric": (
        with_(performance={"metrics": ["acuracy"]}),
        "performance.metrics.0: got 'acuracy'; is no performance metric; allowed: accuracy, precision",
    ),
    "drift metric": (with_(performance={"metrics": ["ks_statistic"]}), "is no performance metric"),
    "zone": (
        with_(schedule={"timezone": "Mars/Base"}),
        "schedule.timezone: got 'Mars/Base'; is no time zone; allowed: a name",
    ),
    "zone that is a folder": (
        with_(schedule={"timezone": "America"}),
        "schedule.timezone: got 'America'; is no time zone",
    ),
    "zone outside": (with_(schedule={"timezone": "../../etc/passwd"}), "is no time zone"),
    "reference without anything": (with_(reference={}), "reference: needs a uri, or from and to"),
    "half a range": (with_(reference={"from": "2013-01-01"}), "reference: needs a uri, or from and to"),
    "range backwards": (with_(reference={"from": "2013-02-01", "to": "2013-01-01"}), "must lie before to (2013-01-01"),
    "no moment": (
        with_(reference={"from": 20130101, "to": "2013-02-01"}),
        "reference.from: got 20130101; is no moment; allowed",
    ),
    "list": ("- a\n- b\n", "holds ['a', 'b']; allowed: a mapping with keys model, owner"),
    "scalar": ("5", "holds 5; allowed: a mapping"),
    "empty": ("", "is empty; allowed: a mapping with keys model"),
    "only comments": ("# soon\n", "is empty; allowed"),
    "not YAML": ("model: a: b", "is no valid YAML: mapping values are not allowed here"),
    "key twice": ("model: a\nmodel: b\n", "is no valid YAML: key 'model' stands twice, line 1"),
    "key twice below": ("model: a\nlogs:\n  uri: a\n  uri: b\n", "is no valid YAML: key 'uri' stands twice, line 3"),
    "no such day": ("model: a\nreference: {from: 2013-13-45}\n", "is no valid YAML: month must be in 1..12"),
    "code": ("model: !!python/object/apply:os.system [id]", "is no valid YAML: could not determine a constructor"),
    "recursion": ("model: &a {b: *a}", "is no valid YAML: found unconstructable recursive node"),
    "brackets without end": ("[" * 5000, "is no valid YAML: "),
    "binary": (b"\x00\xff\xfePAR1", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
    "UTF-16": ("model: m".encode("utf-16"), "cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_refusal_names_file_key_value_and_what_is_allowed(tmp_path: Path, case: str) -> None:
    content, said = WRONG[case]
    assert said in refusal(tmp_path, content)


def test_every_fault_of_a_file_is_said_at_once(tmp_path: Path) -> None:
    lines = refusal(tmp_path, with_(task="x", drift={"bins": 1}, zz=1)).splitlines()
    assert [line.split(":")[0] for line in lines] == ["task", "drift.bins", "zz"]


@pytest.mark.parametrize(
    "hourly",
    ["* * * * *", "*/5 * * * *", "60 * * * *", "10", "", "10 24 * * *", "10 * 0 * *", "10 * * 13 *", "10 * * * 8",
    "10 x * * *",
     "10 * * * * *", "²  * * * *", "@hourly", "10 5- * * *", "10 */0 * * *"],
)  # fmt: skip
def test_a_schedule_that_is_no_hourly_cron_expression_is_refused(tmp_path: Path, hourly: str) -> None:
    message = refusal(tmp_path, with_(schedule={"hourly": hourly}))
    assert f"schedule.hourly: got {hourly!r}; is no hourly cron expression; allowed: five fields" in message


@pytest.mark.parametrize(
    "hourly", ["10 * * * *", "0 */2 * * *", "59 6-22 * * 1-5", "05 0,12 1-15/2 * 0", "manual", None]
)
def test_a_schedule_is_hourly_or_manual(tmp_path: Path, hourly: str | None) -> None:
    assert config.load(write(tmp_path, with_(schedule={"hourly": hourly}))).schedule.hourly == hourly


def test_moments_are_utc_however_they_are_written(tmp_path: Path) -> None:
    expected = datetime(2013, 4, 1, tzinfo=UTC)
    for written in (
        "2013-04-01",
        '"2013-04-01"',
        "2013-04-01T00:00:00",
        "2013-03-31T20:00:00-04:00",
        '"2013-04-01T00"',
    ):
        text = f"model: m\ntask: binary\nlogs: {{uri: a}}\nreference: {{from: {written}, to: 2013-05-01}}\n"
        start = config.load(write(tmp_path, text)).reference.start
        assert (start, start and start.utcoffset()) == (expected, expected.utcoffset()), written


def test_a_missing_place_is_said_with_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such file or directory; .* --config, HINDCAST_CONFIG or"):
        config.paths(tmp_path / "nowhere")
    write(tmp_path, SMALLEST)
    monkeypatch.setenv("HINDCAST_CONFIG", str(tmp_path))
    assert [path.name for path in config.paths()] == ["m.yaml"]


def test_a_broken_file_stops_no_other(tmp_path: Path) -> None:
    write(tmp_path, "nonsense: [", "a.yaml")
    write(tmp_path, SMALLEST, "b.yaml")
    write(tmp_path, with_(model="other"), "c.yml")
    (tmp_path / "readme.txt").write_text("no model file")
    found = list(config.load_all(tmp_path))
    assert [item.model if isinstance(item, config.ModelFile) else type(item) for item in found] == [
        ConfigError,
        "m",
        "other",
    ]
    assert config.find("other", tmp_path).path == tmp_path / "c.yml"
    with pytest.raises(ConfigError, match=r"unknown model 'nobody'.*; known: m, other\n.*a.yaml: is no valid YAML"):
        config.find("nobody", tmp_path)


def test_of_two_files_with_one_name_the_second_is_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path, SMALLEST, "a.yaml"), write(tmp_path, SMALLEST, "b.yaml")
    good, bad = config.load_all(tmp_path)
    assert isinstance(good, config.ModelFile)
    assert str(bad) == f"{second}: model: 'm' is already the name in {first}"


def test_a_model_file_is_frozen(tmp_path: Path) -> None:
    model = config.load(write(tmp_path, SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        model.task = "regression"  # type: ignore[misc]


def test_the_digest_does_not_depend_on_order_place_or_spelled_out_defaults(tmp_path: Path) -> None:
    full = with_(features={"a": {"type": "numeric", "min": 0}, "b": {"type": "categorical"}}, drift={"bins": 1024})
    digest = config.load(write(tmp_path, full)).digest
    assert re.fullmatch("[0-9a-f]{16}", digest)
    turned = dict(reversed(full.items())) | {"features": dict(reversed(full["features"].items()))}
    (tmp_path / "elsewhere").mkdir()
    assert config.load(write(tmp_path / "elsewhere", turned)).digest == digest
    assert config.load(write(tmp_path, {**full, "drift": {}})).digest == digest


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"}, {"task": "multiclass"}, {"positive_class": True}, {"positive_class": "1"},
        {"logs": {"uri": "b"}},
        {"logs": {"uri": "logs", "connection": "c"}}, {"labels": {"uri": "logs"}}, {"reference": {"uri": "b"}},
        {"reference": {"from": "2013-01-01", "to": "2013-01-02"}}, {"segments": ["a"]}, {"segments": ["b", "a"]},
        {"features": {"a": {"type": "numeric"}}}, {"features": {"a": {"type": "numeric", "max_missing": 0.5}}},
        {"performance": {"threshold": 0.0500001}}, {"drift": {"seasonal_weeks": 3}},
        {"quality": {"max_duplicates": 0.1}},
        {"explain": {"sample_rows": 10}}, {"business": {"r": {"column": "a"}}},
        {"schedule": {"timezone": "Europe/Berlin"}},
        {"schedule": {"hourly": "manual"}}, {"owner": {"team": "a"}},
    ],
)  # fmt: skip
def test_the_digest_changes_with_any_value(tmp_path: Path, change: dict[str, object]) -> None:
    before = config.load(write(tmp_path, SMALLEST)).digest
    assert config.load(write(tmp_path, {**SMALLEST, **change})).digest != before


def test_paths_are_relative_to_the_model_file_and_other_schemes_stay(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    model = config.load(write(tmp_path / "models", SMALLEST))
    expected = {
        "logs": tmp_path / "models/logs",
        "../logs": tmp_path / "logs",
        "/srv/logs": "/srv/logs",
        "file:///srv/logs": "/srv/logs",
        "file://localhost/srv/logs": "/srv/logs",
        "file:///srv/a b#c?d%20e": "/srv/a b#c?d%20e",
        "a:b/logs": tmp_path / "models/a:b/logs",
        "s3://bucket/prefix": "s3://bucket/prefix",
        "bq://project.dataset.table": "bq://project.dataset.table",
    }
    assert {uri: model.resolve(uri) for uri in expected} == {uri: str(path) for uri, path in expected.items()}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.datetimes() | st.dates()
keys = st.sampled_from([*SMALLEST, "features", "performance", "uri", "from", "to", "type", "min", "schedule", "hourly"])
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(tree=trees | st.dictionaries(keys, trees, max_size=5).map(lambda d: {**SMALLEST, **d}))
def test_any_tree_is_loaded_or_refused_as_a_configuration_error(tmp_path: Path, tree: object) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=False), encoding="utf-8")
    try:
        assert config.load(path).digest
    except ConfigError as error:
        named = str(error).startswith(f"{path}: ")
        assert named


@quick
@given(content=st.binary(max_size=60) | st.text("abc:-[]{}&*!?|>'\"%@#\n\t 0129<~", max_size=40).map(str.encode))
def test_any_bytes_are_loaded_or_refused_as_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        config.load(path)


# --- rules of the policy


def refused(folder: Path, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(write(folder, with_(**more)))
    return str(caught.value).removeprefix(f"{folder}/m.yaml: ")


def test_a_threshold_beyond_critical_is_refused(tmp_path: Path) -> None:
    found = refused(tmp_path, performance={"threshold": 0.2})
    assert found == "performance: threshold (0.2) must not exceed critical (0.1)"
    assert config.load(write(tmp_path, with_(performance={"threshold": 0.1}))).performance.critical == 0.1


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"to": "2026-12-24"}, "from (2026-12-24) must lie before to (2026-12-24), which is exclusive"),
        ({"to": "2028-01-01", "repeat": "yearly"}, "2026-12-24 to 2028-01-01 is too long to be repeated yearly"),
        ({"to": "2027-01-02", "repeat": "weekly"}, "too long to be repeated weekly"),
        ({"repeat": "daily"}, "quiet.0.repeat: got 'daily'; allowed: 'weekly' or 'yearly'"),
        ({"reason": ""}, "quiet.0.reason: got ''"),
        ({"from": "soon"}, "quiet.0.from: got 'soon'; is no moment; allowed: a date or time such as"),
        ({"subject": ["a"]}, "quiet.0.subject: unknown key 'subject' (did you mean 'subjects'?)"),
        ({"subjects": []}, "quiet.0.subjects: got []"),
        ({"subjects": ["amuont"]}, "quiet.0.subjects: 'amuont' is about no feature of the file; known: amount, *"),
        ({"subjects": ["carrier=HA"]}, "quiet.0.subjects: 'carrier=HA' is about no segment of the file; known: origin"),
    ],
)
def test_a_wrong_quiet_entry_is_refused(tmp_path: Path, entry: dict[str, object], words: str) -> None:
    usual = {"from": "2026-12-24", "to": "2026-12-27", "reason": "Christmas"}
    found = refused(tmp_path, features={"amount": {"type": "numeric"}}, segments=["origin"], quiet=[{**usual, **entry}])
    assert words in found


def test_a_quiet_date_is_one_of_the_schedules_zone_and_a_moment_is_utc(tmp_path: Path) -> None:
    text = """
        model: m
        task: binary
        logs: {uri: l}
        reference: {uri: r}
        schedule: {timezone: Europe/Berlin}
        quiet:
          - {from: 2026-12-24, to: 2026-12-25, reason: holiday}
          - {from: 2026-03-02T08:00, to: 2026-03-02T10:00+01:00, reason: release, subjects: [anything]}
    """
    calendar = config.load(write(tmp_path, text)).calendar
    planned = {
        hour: calendar.planned("anything", hour)
        for day in (datetime(2026, 12, 23, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
        for hour in (day + timedelta(hours=k) for k in range(60))
    }
    hours = [hour.isoformat()[:13] for hour, reason in planned.items() if reason]
    assert (hours[0], hours[23], len(hours)) == ("2026-12-23T23", "2026-12-24T22", 25)
    assert hours[24] == "2026-03-02T08"


@pytest.mark.parametrize(
    "change",
    [
        {"quiet": [{"from": "2026-12-24", "to": "2026-12-25", "reason": "holiday"}]},
        {"drift": {"accept_after_hours": None}}, {"drift": {"effect_floor": 0.2}}, {"drift": {"scales": [1]}},
    ],
)  # fmt: skip
def test_the_digest_changes_with_the_policy(tmp_path: Path, change: dict[str, object]) -> None:
    before = config.load(write(tmp_path, SMALLEST)).digest
    assert config.load(write(tmp_path, {**SMALLEST, **change})).digest != before
