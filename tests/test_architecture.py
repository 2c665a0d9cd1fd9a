"""Who imports whom: every module has a floor and imports only from the floors below it; read from the source."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import LONG

from hindcast import errors

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "include" / "hindcast"

# Floor of every module. 1 to 3 are the pure core but for sources and results: no input or output, no clock.
FLOORS: dict[str, float] = {
    # 1: words
    "errors": 1, "metrics": 1, "unfinished": 1,
    # 2: the row kernel, time, model files
    "window": 2, "baselines": 2, "calendar": 2.1, "config": 2.2, "spread": 2, "importance": 2,
    "profile.bins": 2, "profile.columns": 2.1, "profile.hashing": 2.2, "profile.profile": 2.2, "profile.sampling": 2.3,
    "sdk.arrays": 2, "sdk.fitted": 2.05, "sdk.stores": 2.1, "sdk.columns": 2.1, "sdk.exposed": 2.1, "sdk.spool": 2.15,
    "sdk.tally": 2.2, "sdk.sender": 2.2, "sdk.lifecycle": 2.5, "sdk.builder": 2.3, "sdk.pipeline": 2.6,
    "sdk.logger": 2.7, "sdk": 2.8,
    "profile.fit": 2.3, "profile.slices": 2.25, "profile.rebin": 2.3, "profile.slicer": 2.3,
    "profile.scan": 2.4, "profile.facts": 2.4, "profile.files": 2.4,
    # 3: one module per computation; sources and results
    "infer": 3, "datadocs": 3, "quality": 3.1, "alerts": 3,
    "drift.multivariate": 3, "drift.statistics": 3, "drift.baseline": 3, "drift.moments": 3.1, "drift.ranks": 3.1,
    "drift.unseen": 3,
    "drift.windows": 3.1, "drift.sliced": 3.4, "drift.significance": 3.2, "drift.policy": 3.3, "drift.measures": 3.3,
    "performance.intervals": 3, "performance.formulas": 3.1, "performance.scores": 3.2, "performance.outcomes": 3.3,
    "performance.labels": 3, "performance.degradation": 3.1, "performance.counted": 3, "performance.service": 3.1,
    "performance.evaluation": 3.4, "performance.parts": 3.5,
    "connections": 3, "s3": 3.05, "sources.base": 3, "sources.ahead": 3,
    "sources.folder": 3.1, "sources.bigquery_service": 3.05, "sources.bigquery": 3.1, "sources.s3": 3.15,
    "sources.bigquery_export": 3.15, "sources.files": 3.2, "sources": 3.3,
    "results.types": 3, "results.tables": 3.1, "results.schema": 3.2, "results.database": 3.2, "results.audit": 3.3,
    "results.bigquery_dialect": 3, "results.gathered": 3.1, "results.bigquery": 3.15, "results.bigquery_tables": 3.3,
    "results.sql": 3.4,
    # 3: how monitoring is reached, and what it is told
    "gateway": 3.1, "oncall": 3, "prometheus": 3,
    # 4: what is made of many rows
    "engines.base": 4, "engines.row_groups": 4, "engines.strayed": 4.05, "engines.local": 4.1,
    "engines.spark_session": 4, "engines.repeats": 4, "engines.spark_tasks": 4.15, "engines.spark_repeats": 4.17,
    "engines.spark": 4.2,
    "engines.bigquery_sql": 4.1, "engines.bigquery_repeats": 4.05, "engines.bigquery": 4.2, "engines.choice": 4.3,
    "ready": 4, "incidents": 4, "push": 4, "threads": 4, "artifact": 4.1, "treeshap": 3, "explainers": 4,
    "report.words": 4, "report.charts": 4.1, "report.reading": 4.1, "report.verdict": 4.2, "report.sections": 4.2,
    "report.pages": 4.3,
    # 5: the checks, which a task and a command share
    "checks.reference": 5, "checks.context": 5,
    "checks.levels": 5, "checks.statuses": 5, "checks.run": 5.1, "checks.pull": 5.2,
    "checks.quality": 5.2, "checks.segments": 5.15, "checks.labels": 5.2, "checks.refit": 5.25, "checks.drift": 5.27,
    "checks.evaluation": 5.2, "checks.performance": 5.3, "checks.importance": 5.3, "diagnosis": 5.4,
    "checks.multivariate": 5.3, "checks.triage": 5.5, "checks": 5.6,
    "acceptance": 5.7, "history": 5.7,
    # 6: what people and schedulers call
    "options": 6, "monitor": 6.05,
    "requests": 6, "views": 6, "replay": 6, "whatif": 6, "sweep": 6, "profiling": 6, "maintenance": 6,
    "tasks": 6.1, "waiting": 6.1, "cli": 6.1, "ui": 6.2,
}  # fmt: skip
WORLDLY = {"gateway", "oncall", "sdk", "unfinished", "connections", "s3", "sources", "results"}
PURE = {name for name, floor in FLOORS.items() if floor < 4 and name.split(".")[0] not in WORLDLY}

# What the pure core must never import at the top of a module: input and output, plotting, frameworks.
IMPURE = {
    "airflow", "boto3", "botocore", "google", "s3fs", "matplotlib", "plotly", "sqlalchemy", "pandas", "requests",
    "logging",
    "socket", "urllib", "subprocess", "sqlite3", "prometheus_client", "jinja2", "rich", "click",
}  # fmt: skip
# What nobody may import at the top of a module: each costs from a quarter of a second to seconds.
HEAVY = {
    "shap", "great_expectations", "pandas", "plotly", "sklearn", "lightgbm", "xgboost", "matplotlib", "airflow",
    "mlflow",
    "onnxruntime", "pyspark", "google", "boto3", "botocore",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the library but the empty `__init__` files, by its name below `hindcast`."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        if "migrations" in path.parts:  # Alembic runs them
            continue
        name = ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
        if path.name != "__init__.py":
            found[name] = path
        elif name != "__init__" and ast.parse(path.read_text(encoding="utf-8")).body[1:]:
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Dotted names that a file imports, but for type checking: at the top of the module, or inside functions too."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    visit(other)
            elif isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            elif everywhere or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def own(names: set[str]) -> set[str]:
    """The modules of the library among dotted names, by their names below `hindcast`."""
    found = set()
    for name in names:
        if name.split(".")[0] == "hindcast":
            parts = name.split(".")[1:]
            known = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
            found.update([next((k for k in known if k in MODULES), "")])
    return found - {""}


def test_every_module_has_a_floor_and_every_floor_a_module() -> None:
    assert set(MODULES) == set(FLOORS)


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_a_module_imports_only_from_the_floors_below_its_own(name: str) -> None:
    above = {
        other: FLOORS[other] for other in own(imports(MODULES[name], everywhere=True)) if FLOORS[other] >= FLOORS[name]
    }
    assert not above, f"{name} stands on floor {FLOORS[name]}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_core_reaches_nothing_outside(name: str) -> None:
    found = {imported.split(".")[0] for imported in imports(MODULES[name], everywhere=False)}
    assert not found & IMPURE
    assert not {
        other for other in own(imports(MODULES[name], everywhere=True)) if other.split(".")[0] in {"sources", "results"}
    }


@pytest.mark.parametrize("name", sorted(PURE - {"config", "datadocs"}))
def test_the_pure_core_has_no_clock_and_no_chance(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "date.today",
        "time.time",
        "time.time_ns",
        "print",
    }
    assert not {call for call in called if call.startswith(("random.", "np.random.rand", "np.random.seed"))}
    assert "os.environ" not in ast.unparse(tree)


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_no_module_imports_what_is_heavy_at_its_top(name: str) -> None:
    found = imports(MODULES[name], everywhere=False)
    # what waits is made of Airflow's classes; nobody but DAG files that wait and the triggerer imports it
    allowed = {"airflow"} if name == "waiting" else set()
    assert not {imported.split(".")[0] for imported in found} & HEAVY - allowed
    assert not {imported for imported in found if imported.startswith("scipy.stats")}


def drawn(line: str) -> tuple[int, str, str, bool] | None:
    """Depth, name, exit status and whether it is called transient, of an error in the tree of errors.py."""
    found = re.match(r"    ([ │├└─]*)(\w+)  +(?:exit status )?(\d|-)", line)
    return (len(found[1]) // 4, found[2], found[3], "transient" in line) if found else None


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    tree = [node for node in map(drawn, (errors.__doc__ or "").splitlines()) if node]
    assert {name for _, name, *_ in tree} == {kind.__name__ for kind in errors.kinds()}
    for depth, name, status, transient in tree:
        kind = getattr(errors, name)
        assert len(kind.__mro__) - len(errors.HindcastError.__mro__) == depth, name
        assert status in {str(kind.exit_status), "-"}, name
        assert transient == kind.transient, name


@pytest.mark.parametrize("path", sorted(set(MODULES.values()) - {MODULES["errors"]}), ids=lambda path: path.stem)
def test_every_error_of_ours_stands_in_the_module_of_errors(path: Path) -> None:
    """Airflow's rules and the tree in its docstring are about that module."""
    ours = {kind.__name__ for kind in errors.kinds()}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    made = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert not [node.name for node in made if {ast.unparse(base).rpartition(".")[2] for base in node.bases} & ours]


@pytest.mark.parametrize("path", sorted((ROOT / "dags").glob("*.py")), ids=lambda path: path.name)
def test_dag_files_are_wiring_only(path: Path) -> None:
    found = imports(path, everywhere=True)
    outside = (
        {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"hindcast", "airflow", "pendulum"}
    )
    assert not outside
    assert not {name.split(".")[0] for name in own(found)} & {
        "checks",
        "profile",
        "drift",
        "performance",
        "results",
        "sources",
        "report",
    }


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_every_exported_name_exists(path: Path) -> None:
    parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    exported = getattr(module, "__all__", ())
    assert all(hasattr(module, name) for name in exported)
    assert len(set(exported)) == len(exported)


LIGHT = {
    "hindcast.config": "numpy scipy pyarrow pandas sqlalchemy airflow shap great_expectations plotly click",
    "hindcast.cli": "numpy scipy pyarrow pandas sqlalchemy airflow shap great_expectations plotly sklearn jinja2",
    "hindcast.tasks": "numpy scipy pyarrow pandas airflow shap great_expectations plotly sklearn jinja2",
    "hindcast.sdk": "scipy pandas sqlalchemy airflow shap great_expectations pydantic click rich yaml boto3 google",
    "hindcast.profile.scan": "scipy pandas sqlalchemy airflow shap",
    "hindcast.drift.policy": "scipy.stats pandas sqlalchemy airflow pyarrow",
    "hindcast.checks": "scipy.stats pandas airflow shap great_expectations plotly sklearn jinja2",
    "hindcast.checks.triage": "scipy.stats pandas airflow shap great_expectations plotly sklearn jinja2",
}


@pytest.mark.parametrize("module", LIGHT)
def test_importing_stays_light(module: str) -> None:
    """In a fresh process, since this one has imported much already."""
    code = f"import sys, {module}; print([name for name in {LIGHT[module].split()} if name in sys.modules])"
    environment = {"PYTHONPATH": str(ROOT / "include"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_no_module_is_larger_than_a_reader_can_hold() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: n for name, n in lines.items() if n > 700}


def test_the_test_files_that_run_first_are_there() -> None:
    assert not [name for name in LONG if not (ROOT / "tests" / f"{name}.py").exists()]
