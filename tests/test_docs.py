"""Documents say what the code does. `python tests/test_docs.py` rewrites the generated table of docs/metrics.md."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel
from sqlalchemy import text

from hindcast import config, push
from hindcast.checks import Run, execute
from hindcast.cli import main
from hindcast.errors import ConfigError
from hindcast.metrics import METRICS
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.window import Window

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "include").rglob("*.md")})
START, END = "<!-- registry: `python tests/test_docs.py` writes this table -->", "<!-- end of registry -->"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(markdown: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)


def rows(markdown: str) -> list[list[str]]:
    """Cells of every table row whose first cell is code."""
    lines = [line for line in markdown.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def code(markdown: str) -> list[str]:
    """Lines of shell blocks, and inline code outside of blocks."""
    lines = [line for block in blocks(markdown, "bash") for line in block.splitlines()]
    outside = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return lines + re.findall(r"`([^`\n]+)`", outside)


# --- links and commands ---


def anchors(path: Path) -> set[str]:
    """Anchors that headings get."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_options_targets_and_variables_exist(path: Path) -> None:
    markdown = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "include").rglob("*.py"))
    for line in code(markdown):
        for target in re.findall(r"(?:^|\s)make ([a-z]+)", line):
            assert target in targets, line
        for variable in re.findall(r"HINDCAST_[A-Z]+", line):
            assert f'"{variable}"' in source, line
        called = re.search(r"(?:^|[\s/])hindcast (?!--)([a-z]+)(.*)", line)
        if called:
            command = main.commands.get(called[1])
            assert command is not None, line
            arguments = re.split(r"[|#;&]", called[2])[0]
            if isinstance(command, click.Group):
                action = (arguments.split() or ["list"])[0]
                command = command.commands.get(action) or command.commands["list"]
            options = {name for param in command.params if isinstance(param, click.Option) for name in param.opts}
            assert {word for word in shlex.split(arguments) if word.startswith("-")} <= options, line


# --- model file ---


def model_files() -> list[Any]:
    marked = [(path, block) for path in PAGES for block in blocks(path.read_text(encoding="utf-8"), "yaml")]
    complete = [(path, block) for path, block in marked if block.startswith("# complete model file")]
    return [pytest.param(block, id=f"{path.name}-{number}") for number, (path, block) in enumerate(complete)]


@pytest.mark.parametrize("block", model_files())
def test_complete_model_files_load(block: str, tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(block, encoding="utf-8")
    assert config.load(path).model


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that holds a value, dotted, with its pydantic field."""
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        inner = config._section_of(field.annotation)
        many = str(field.annotation).startswith("dict")
        if key == "path":
            continue
        if inner is None:
            yield key, field
        else:
            yield from keys(inner, f"{key}.<name>." if many else f"{key}.")


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def test_every_key_of_a_model_file_is_described_with_its_default() -> None:
    described = {cells[0].strip("`"): cells for cells in rows(page("model-file.md"))}
    known = {key: field for key, field in keys(config.ModelFile) if key != "segments"}
    assert set(described) - {"explain.model"} == set(known)
    for key, field in known.items():
        default = described[key][2]
        if field.is_required():
            assert default == "required", key
        elif field.default is not None:
            assert default == f"`{shown(field.default)}`", key
        else:
            assert default in {"none", "by task", "the settle minutes, each hour"}, key


@pytest.mark.parametrize(
    "line", [line for block in blocks(page("model-file.md"), "text") for line in block.splitlines()]
)
def test_refusals_read_as_shown(line: str, tmp_path: Path) -> None:
    name, key, _ = line.split(": ", 2)
    section, wrong = key.split(".")
    value = (re.search(r"got (\S+);", line) or ["", "1"])[1]
    required = "model: m\ntask: binary\nlogs: {uri: l}\nreference: {uri: r}\n"
    (tmp_path / name).write_text(f"{required}{section}: {{{wrong}: {value}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / name)
    assert str(caught.value) == f"{tmp_path}/{line}"


# --- metrics ---


def metrics_table() -> str:
    """Registry of metrics as Markdown."""
    lines = ["| name | family | | worse | range | unit | when nothing changed |", "|---|---|---|---|---|---|---|"]
    for metric in METRICS.values():
        low, high = (f"{bound:g}".replace("inf", "∞") for bound in (metric.low, metric.high))
        cells = [f"`{metric.name}`", metric.family, metric.title.replace("|", "\\|"), metric.worse or "neither"]
        lines.append("| " + " | ".join([*cells, f"{low} to {high}", metric.unit, metric.null]) + " |")
    return "\n".join(re.sub(r" +", " ", line) for line in lines)


def with_table(markdown: str) -> str:
    before, _, rest = markdown.partition(START)
    return f"{before}{START}\n\n{metrics_table()}\n\n{END}{rest.partition(END)[2]}"


def test_the_registry_of_metrics_is_current() -> None:
    markdown = page("metrics.md")
    assert markdown == with_table(markdown), "run: python tests/test_docs.py"
    assert set(METRICS) <= {cells[0].strip("`") for cells in rows(markdown)}


def test_pushed_metrics_are_listed() -> None:
    after = page("metrics.md").partition("## Pushed")[2]
    assert {cells[0].strip("`") for cells in rows(after)} == set(push.HELP)


# --- results ---


def test_every_table_and_column_is_described_with_its_key() -> None:
    sections = re.split(r"^#{3,4} `(\w+)`$", page("results.md"), flags=re.MULTILINE)
    described = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert set(described) == set(tables.METADATA.tables)
    for name, table in tables.METADATA.tables.items():
        body = re.split(r"^### ", described[name], flags=re.MULTILINE)[0]
        found = {cells[0].strip("`"): cells[1].startswith("key") for cells in rows(body)}
        expected = {column.name: bool(column.primary_key) for column in table.columns}
        expected |= {"sequence": True} if name == "audit" else {}
        assert found == expected, name


def test_every_status_is_described() -> None:
    section = page("results.md").partition("## Statuses")[2].partition("## Tables")[0]
    assert {cells[0].strip("`") for cells in rows(section)} == set(tables.STATUSES)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/results.db")


@pytest.mark.parametrize("query", blocks(page("results.md"), "sql"), ids=["firing", "not judged", "segments"])
def test_queries_run_and_find_what_they_ask_for(query: str, store: Store) -> None:
    with store.engine.connect() as connection:
        assert connection.execute(text(query)).all() == []
    moment, model = datetime(2013, 4, 16, 15, tzinfo=UTC), {"model_name": "flights_delay"}
    window = {"window_start": moment, "window_end": moment, "as_of": moment, "rows": 0, "bytes": 0, "status": "empty"}
    ended = {"window_start": moment, "check": "pull", "status": "empty", "as_of": moment}
    alert = dict.fromkeys(("alert_id", "kind", "severity", "subject", "metric"), "x") | {"state": "firing"}
    seen = dict.fromkeys(("opened_at", "last_seen_at", "detected_at"), moment)
    row = {"model_version": "1", "window_start": moment, "metric": "accuracy", "estimated": False, "as_of": moment}
    row |= {"segment": "carrier=AA", "label_age_hours": 24, "status": "ok", "value": 0.5, "baseline": 0.8, "n": 30}
    with store.transaction() as connection:
        connection.execute(tables.windows.insert(), {**model, **window})
        connection.execute(tables.checks.insert(), {**model, **ended})
        connection.execute(tables.alerts.insert(), {**model, **alert, **seen})
        connection.execute(tables.performance.insert(), {**model, **row})
    with store.engine.connect() as connection:
        assert len(connection.execute(text(query)).all()) == 1


def python(source: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(ROOT / "include")}
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder,
        env={**os.environ, **paths, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# --- logs ---


def test_the_example_writes_a_valid_log_and_its_labels(store: Store, tmp_path: Path) -> None:
    source = "\n".join(blocks(page("log-schema.md"), "python"))
    run = python(source, tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    hour = Window.parse("2026-03-02T15")
    reference = f"reference: {{from: {hour.start.isoformat()}, to: {hour.end.isoformat()}}}"
    model = f"model: churn\ntask: binary\nlogs: {{uri: logs}}\nlabels: {{uri: labels}}\n{reference}\n"
    (tmp_path / "churn.yaml").write_text(model, encoding="utf-8")

    checked = Run.open("churn", hour, config=tmp_path, results=store.url)
    execute(checked, "pull")
    window = store.rows(tables.windows)[0]
    found = [window[name] for name in ("status", "rows", "misplaced_rows", "duplicate_ids", "reason", "model_version")]
    assert found == ["ok", 120, 0, 0, "", "7"]
    assert set(checked.reference.features) == {"age", "country"}

    execute(checked, "performance")
    judged = store.rows(tables.performance, metric="accuracy", label_age_hours=6)
    assert [(row["label_coverage"], row["value"]) for row in judged] == [(1.0, pytest.approx(0.5))]


# --- logging ---


def test_the_first_example_of_logging_logs(tmp_path: Path) -> None:
    run = python(blocks(page("logging.md"), "python")[0], tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert {path.parts[-4] for path in tmp_path.rglob("date=*/hour=*/*.parquet")} == {"logs", "labels"}


@pytest.mark.parametrize(
    ("web", "asks"),
    [
        (
            "fastapi",
            """
from fastapi.testclient import TestClient
with TestClient(app) as client:
    assert client.post("/predict", json={"age": 41.0, "country": "DE"}).json()["score"] == 0.8
    assert "ml_predictions_total" in client.get("/metrics/").text
""",
        ),
        ("flask", """assert app.test_client().post("/predict", json={"age": 41.0}).json["score"] == 0.8"""),
    ],
)
def test_the_examples_of_web_services_log_each_request(tmp_path: Path, web: str, asks: str) -> None:
    (source,) = (block for block in blocks(page("logging.md"), "python") if block.startswith(f"# {web}"))
    run = python(source + asks, tmp_path)
    assert run.returncode == 0, run.stderr
    (path,) = tmp_path.glob("logs/date=*/hour=*/*.parquet")
    assert "feature_age" in path.read_bytes().decode(errors="replace")


# --- policy and layout ---


@pytest.mark.parametrize(
    "cells", rows(page("alert-policy.md").partition("## Constants")[2]), ids=lambda cells: cells[0]
)
def test_constants_have_the_value_that_the_policy_states(cells: list[str]) -> None:
    module, _, name = cells[0].strip("`").rpartition(".")
    assert repr(getattr(importlib.import_module(module), name)) == cells[1].strip("`")


def imports(path: Path) -> set[str]:
    """Modules of hindcast that a file imports when it runs; what only types need does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "hindcast":
            found |= {name.name for name in node.names if not name.name.startswith("_")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hindcast."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("hindcast.")}
    return found


def test_modules_import_from_their_own_floor_or_below() -> None:
    (listed,) = blocks((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "floors")
    floors = {room: int(line.split()[0]) for line in listed.splitlines() for room in line.split()[1:]}
    package = ROOT / "include" / "hindcast"
    files = [path for path in package.rglob("*.py") if path != package / "__init__.py"]
    assert {path.relative_to(package).parts[0].removesuffix(".py") for path in files} == set(floors)
    for path in files:
        room = path.relative_to(package).parts[0].removesuffix(".py")
        above = {name for name in imports(path) if floors[name] > floors[room]}
        assert not above, f"{path.relative_to(package)} (floor {floors[room]}) imports {above}"


if __name__ == "__main__":
    target = DOCS / "metrics.md"
    target.write_text(with_table(target.read_text(encoding="utf-8")), encoding="utf-8")
