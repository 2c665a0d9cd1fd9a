"""Airflow Connections, read without Airflow where they stand in the environment as JSON."""

import pytest

from hindcast.connections import connection
from hindcast.errors import UsageError

SECRET = "correct horse battery"  # noqa: S105 - of nothing


def test_json_with_the_extra_as_text_as_airflow_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"conn_type": "aws", "login": "a", "password": "%s", "port": "99", "extra": "{\\"region\\": \\"eu\\"}"}'
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", text % SECRET)
    found = connection("lake")
    assert (found.kind, found.login, found.password, found.port) == ("aws", "a", SECRET, 99)
    assert found.extra == {"region": "eu"}
    assert SECRET not in repr(found)


def test_uri_form_is_read_by_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", "spark://me:pass%20word@host:7077?deploy-mode=client")
    found = connection("cluster")
    assert (found.host, found.port, found.login, found.password) == ("host", 7077, "me", "pass word")
    assert found.extra == {"deploy-mode": "client"}


def test_missing_connection_says_what_to_set() -> None:
    with pytest.raises(UsageError, match="AIRFLOW_CONN_NOT_THERE"):
        connection("not_there")


def test_broken_json_is_refused_without_repeating_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", f'{{"password": "{SECRET}"')
    with pytest.raises(UsageError, match="no valid JSON") as caught:
        connection("lake")
    assert SECRET not in str(caught.value)
