"""Load a model artifact without trusting it, and attribute its output to the features: SHAP values of a sample.

An artifact is read once; what is hashed are the very bytes that are then loaded, so nobody can swap the file between
the two. Formats that can run code when loaded (pickles) need both ``allow_pickle`` and a matching sha256.
`FORMATS` is the list of what can be loaded; `hindcast.importance` turns the values into importance rows.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hindcast import treeshap
from hindcast.errors import HindcastError, ModelRefused, NotEnoughData, SourceMissing, SourceUnreadable
from hindcast.treeshap import LightGBMText

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

METHODS = ("auto", "native", "tree", "permutation")
# What the permutation explainer costs per row is PERMUTATIONS · BACKGROUND_ROWS · (2 · features + 1) predictions.
PERMUTATIONS = 10
BACKGROUND_ROWS = 100
# shap takes masked values within 1e-5 of each other for equal, which codes from 100,000 on would be; see _permutation.
PERMUTATION_ROWS = 50_000
# scikit-learn's node arrays: plain numbers, but indexed without bounds checks, so skops wants them vouched for.
SKOPS_NODES = {"sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"}
# LightGBM's names of columns that came without names.
UNNAMED = re.compile(r"Column_\d+")


@dataclass(frozen=True)
class Artifact:
    """The bytes of a model file, their own digest, and what the model file allows; `pinned`: a sha256 was given."""

    name: str
    data: bytes
    sha256: str
    pinned: bool
    allow_pickle: bool


def load_model(source: Path | bytes, *, format: str, sha256: str | None, allow_pickle: bool = False) -> object:  # noqa: A002 - the key is called so in the model file
    """Load a model from a file or from its bytes.

    Parameters
    ----------
    source : Path or bytes
        The artifact; for ``mlflow`` a local folder with an ``MLmodel`` file, of which the native file of the lightgbm,
        xgboost, onnx or sklearn flavour is loaded. Neither mlflow nor a pyfunc is ever run.
    format : str
        One of `FORMATS`, or ``mlflow``. ``lightgbm`` is the text model, ``xgboost`` its JSON or UBJ, ``sklearn`` a
        skops file or a pickle (joblib's too).
    sha256 : str or None
        Hex digest that the loaded file (for ``mlflow``: the flavour's file) must have. Required for pickles. Worth
        giving always: LightGBM and XGBoost read damaged trees without complaint, or take the process down.
    allow_pickle : bool
        Whether a pickle may be loaded, which runs the code inside it.

    Returns
    -------
    object
        `LightGBMText` of LightGBM, ``xgboost.Booster``, ``onnxruntime.InferenceSession`` or what was pickled.
        scikit-learn estimators get ``n_jobs=1``: a worker has neighbours.

    Raises
    ------
    ModelRefused
        Wrong sha256, a pickle that is not allowed, a damaged file, an unknown format, a library that is not installed.
    SourceMissing, SourceUnreadable
        The file is not there; it cannot be read.

    Examples
    --------
    >>> load_model(b"tree", format="lightgbm", sha256=None)
    Traceback (most recent call last):
    hindcast.errors.ModelRefused: model: not a LightGBM text model, or cut off; write it again with Booster.save_model
    """
    if format not in {*FORMATS, "mlflow"}:
        message = f"explain.model.format is {format!r}; allowed: {', '.join(sorted({*FORMATS, 'mlflow'}))}"
        raise ModelRefused(message)
    if format == "mlflow":
        source, format = _mlflow_file(source)  # noqa: A001 - as above
    data, name = (source, "model") if isinstance(source, bytes) else (_read(source), str(source))
    artifact = Artifact(name, data, hashlib.sha256(data).hexdigest(), sha256 is not None, allow_pickle)
    if sha256 is not None and sha256.strip().lower() != artifact.sha256:
        message = (
            f"{name}: sha256 differs from explain.model.sha256: expected {sha256}, found {artifact.sha256}; "
            f"if the new model is meant, put the found one there"
        )
        raise ModelRefused(message)
    try:
        return FORMATS[format](artifact)
    except HindcastError:
        raise
    except Exception as error:  # a parser or an unpickled class may raise anything, and all of it means: not loadable
        message = f"{name}: cannot be read as {format}: {_first_line(error)}"
        raise ModelRefused(message) from error


def shap_values(
    model: object,
    sample: pa.Table,
    *,
    features: Sequence[str],
    categorical: Sequence[str],
    method: str = "auto",
    background: pa.Table | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Values:
    """SHAP values of every row of a sample; the same sample gives the same values.

    Parameters
    ----------
    model : object
        What `load_model` returned.
    sample : pyarrow.Table of n rows
        Raw feature values under the features' names, nulls included; other columns are ignored.
    features : sequence of f str
        Names and order of the result's columns. A model that recorded no names (fitted on a bare array) takes them in
        this order. A feature that the model does not read has the value 0, by the definition of Shapley values.
    categorical : sequence of str
        Which features are categories. LightGBM's file lists the training categories without saying whose they are; this
        decides where the rest of the file does not. Categories unseen in training count as missing, as LightGBM does.
    method : str
        ``native``: the booster's own exact contributions. ``tree``: `shap.TreeExplainer` (for boosters the same as
        native). ``permutation``: `shap.PermutationExplainer` of any model that predicts, 10 permutations forth and
        back against at most 100 background rows. ``auto``: the first of them that the model allows.
    background : pyarrow.Table, optional
        Rows of the reference, which stand in for hidden features; only permutation needs them.
    seed : int
        Chooses background rows and permutations.
    threads : int
        Threads of the model's library.

    Returns
    -------
    ndarray of shape (n, f), or (n, f, n_classes) for three and more classes
        In the unit of the model's raw output: log-odds for boosters and HistGradientBoosting under native and tree,
        probability for scikit-learn's forests and under permutation (boosters: raw scores). The bias is left out.

    Raises
    ------
    NotEnoughData
        The sample has no rows, or lacks features that the model reads: a matter of this window's logs.
    ModelRefused
        The model reads something that is no feature, or of another type; the method is unknown or does not fit the
        model; a library is not installed; the model fails on the sample.

    References
    ----------
    Lundberg and Lee, "A unified approach to interpreting model predictions", NeurIPS 2017; Lundberg et al., Nature
    Machine Intelligence 2, 2020 (trees).

    Examples
    --------
    >>> from sklearn.tree import DecisionTreeRegressor
    >>> table = pa.table({"hour": [0.0, 1.0, 2.0, 3.0], "unused": [5.0, 5.0, 5.0, 5.0]})
    >>> tree = DecisionTreeRegressor(max_depth=1).fit(table.to_pandas(), [0.0, 0.0, 8.0, 8.0])
    >>> shap_values(tree, table, features=["unused", "hour"], categorical=[]).tolist()
    [[0.0, -4.0], [0.0, -4.0], [0.0, 4.0], [0.0, 4.0]]
    """
    if method not in METHODS:
        message = f"explain.method is {method!r}; allowed: {', '.join(METHODS)}"
        raise ModelRefused(message)
    if sample.num_rows == 0:
        message = "no rows to explain"
        raise NotEnoughData(message)
    model = _unwrapped(model)
    columns = _columns(model, features, sample)
    table = _plain(sample, columns)
    try:
        values = _exact(model, table, categorical, method, threads)
        if values is None:
            values = _permutation(model, table, background, categorical=categorical, seed=seed, threads=threads)
    except HindcastError:
        raise
    except Exception as error:  # foreign code on unforeseen data: one message for whatever the model's library raises
        message = f"{type(model).__name__} failed on the sample: {_first_line(error)}"
        raise ModelRefused(message) from error
    if not np.isfinite(values).all():
        message = f"{type(model).__name__} gave SHAP values that are not finite; try explain.method: permutation"
        raise ModelRefused(message)
    result = np.zeros((sample.num_rows, len(features), *values.shape[2:]))
    result[:, [list(features).index(column) for column in columns]] = values
    return result


# Loading: one function per format, bytes in, model out.


def _lightgbm(artifact: Artifact) -> object:
    _require_whole_trees(artifact)
    return LightGBMText.of(artifact.data.decode())


def _require_whole_trees(artifact: Artifact) -> None:
    """Refuse a text that is not the trees which its header announces: LightGBM would end the process on it."""
    header = re.search(rb"^tree_sizes=([\d ]+)$", artifact.data, re.MULTILINE)
    offset = artifact.data.find(b"\nTree=0\n") + 1
    whole = header is not None and offset > 0
    for index, size in enumerate(header[1].split() if header else []):
        whole = whole and artifact.data.startswith(b"Tree=%d\n" % index, offset)
        offset += int(size)
    whole = whole and artifact.data.startswith(b"end of trees", offset)
    parameters = artifact.data.find(b"\nparameters:", offset)
    if not whole or (parameters >= 0 and b"\nend of parameters" not in artifact.data[parameters:]):
        message = f"{artifact.name}: not a LightGBM text model, or cut off; write it again with Booster.save_model"
        raise ModelRefused(message)


def _xgboost(artifact: Artifact) -> object:
    xgboost = _library("xgboost", "xgboost")
    if not artifact.data.startswith(b"{"):
        message = f"{artifact.name}: not XGBoost's JSON or UBJ; write it with Booster.save_model('model.ubj')"
        raise ModelRefused(message)
    booster = xgboost.Booster()
    booster.load_model(bytearray(artifact.data))
    return booster


def _onnx(artifact: Artifact) -> object:
    onnxruntime = _library("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(artifact.data, options, providers=["CPUExecutionProvider"])


def _sklearn(artifact: Artifact) -> object:
    _library("sklearn", "scikit-learn")
    if artifact.data.startswith(b"PK\x03\x04"):  # a zip archive, which a pickle never is
        model = _skops(artifact)
    else:
        _require_vouched(artifact, "a pickle, which runs code when it is loaded")
        model = _library("joblib", "joblib").load(io.BytesIO(artifact.data))
    if hasattr(model, "get_params"):
        jobs = [name for name in model.get_params() if name == "n_jobs" or name.endswith("__n_jobs")]
        model.set_params(**dict.fromkeys(jobs, 1))
    return model


def _skops(artifact: Artifact) -> Any:
    skops = _library("skops.io", "skops")
    untrusted = set(skops.get_untrusted_types(data=artifact.data))
    if untrusted - SKOPS_NODES or (untrusted and not artifact.pinned):
        _require_vouched(artifact, f"a skops file with types that nobody audited ({', '.join(sorted(untrusted))})")
    return skops.loads(artifact.data, trusted=sorted(untrusted))


def _require_vouched(artifact: Artifact, what: str) -> None:
    if not (artifact.allow_pickle and artifact.pinned):
        message = (
            f"{artifact.name}: this is {what}; only if you trust who wrote it, put under explain.model "
            f"`allow_pickle: true` and `sha256: {artifact.sha256}`"
        )
        raise ModelRefused(message)


def _mlflow_file(folder: Path | bytes) -> tuple[Path, str]:
    """Find the native model file of an MLflow folder, and the format to load it as."""
    if isinstance(folder, bytes) or not folder.is_dir():
        message = f"format mlflow takes a local folder with an MLmodel file; got {folder!s:.200}"
        raise SourceMissing(message)
    import yaml

    try:
        flavors = yaml.safe_load(_read(folder / "MLmodel"))["flavors"]
        found = next((name, flavors[name][key]) for name, key in MLFLOW_FILES.items() if key in flavors.get(name, {}))
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, StopIteration) as error:
        message = (
            f"{folder / 'MLmodel'}: no file of a native flavour ({', '.join(MLFLOW_FILES)}); a pyfunc is code and is "
            f"not run: log the model with its own flavour, or give its file with that format"
        )
        raise ModelRefused(message) from error
    path = (folder / str(found[1])).resolve()
    if not path.is_relative_to(folder.resolve()):
        message = f"{folder / 'MLmodel'}: its file {found[1]!r} lies outside the folder"
        raise ModelRefused(message)
    return path, "sklearn" if path.suffix == ".pkl" else found[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        message = f"{path}: no such model file; see explain.model.uri"
        raise SourceMissing(message) from None
    except IsADirectoryError:
        message = f"{path}: a folder, not a file; for an MLflow model put `format: mlflow`"
        raise SourceUnreadable(message) from None
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise SourceUnreadable(message) from error


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = (
            f"this model needs the package {package}, which cannot be imported here ({error}); pip install {package}"
        )
        raise ModelRefused(message) from error


def _first_line(error: Exception) -> str:
    """Name an error without the C++ stack traces that some libraries append."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


FORMATS: dict[str, Callable[[Artifact], object]] = {
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
    "sklearn": _sklearn,
    "onnx": _onnx,
}
# The key under which each flavour of an MLmodel file names its file.
MLFLOW_FILES = {"lightgbm": "data", "xgboost": "data", "onnx": "data", "sklearn": "pickled_model"}


# Explaining


def _library_of(model: object) -> str:
    return "lightgbm" if isinstance(model, LightGBMText) else type(model).__module__.partition(".")[0]


def _unwrapped(model: Any) -> Any:
    """Take the booster out of LGBMClassifier, XGBRegressor and their like; LightGBM's as its text."""
    if _library_of(model) == "lightgbm":
        return model if isinstance(model, LightGBMText) else _text_model(getattr(model, "booster_", model))
    if _library_of(model) == "xgboost" and hasattr(model, "get_booster"):
        return model.get_booster()
    return model


def _inputs(model: Any) -> tuple[list[str] | None, int | None]:
    """Names of the columns that a model reads, in its order, if it recorded them, and their number."""
    match _library_of(model):
        case "lightgbm":
            names = model.features
            return (None if all(UNNAMED.fullmatch(name) for name in names) else names), len(names)
        case "xgboost":
            return model.feature_names, model.num_features()
        case "onnxruntime":
            nodes = model.get_inputs()
            return (None, nodes[0].shape[-1]) if len(nodes) == 1 else ([node.name for node in nodes], len(nodes))
    names = getattr(model, "feature_names_in_", None)
    return (None if names is None else list(names)), getattr(model, "n_features_in_", None)


def _columns(model: object, features: Sequence[str], sample: pa.Table) -> list[str]:
    """Columns of the sample, in the order in which the model reads them."""
    names, count = _inputs(model)
    if names is None:
        if isinstance(count, int) and count != len(features):
            message = f"the model recorded no feature names and reads {count} columns; features has {len(features)}"
            raise ModelRefused(message)
        names = list(features)
    underscored = {feature.replace(" ", "_"): feature for feature in features}  # as LightGBM writes names
    columns = [name if name in features else underscored.get(name, name) for name in names]
    unknown = [column for column in columns if column not in features]
    if unknown:
        message = f"the model reads columns that are not among the features: {unknown}; features: {list(features)}"
        raise ModelRefused(message)
    missing = [column for column in columns if column not in sample.column_names]
    if missing:
        message = f"the model reads features that the sample does not have: {missing}"
        raise NotEnoughData(message)
    return columns


def _plain(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Select columns as one chunk each, dictionaries decoded and without the metadata pandas leaves behind."""
    chunks = [table.column(column).combine_chunks() for column in columns]
    values = [chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk for chunk in chunks]
    return pa.table(values, names=list(columns))


def _exact(model: Any, table: pa.Table, categorical: Sequence[str], method: str, threads: int) -> Values | None:
    """Exact attributions, shape (n, columns[, classes]); None where the permutation explainer is the way."""
    if method == "permutation":
        return None
    if _library_of(model) in BOOSTERS:
        return BOOSTERS[_library_of(model)](model, table, categorical, threads=threads, contributions=True)
    explainer = _tree_explainer(model) if method != "native" else None
    if explainer is not None:
        values: Values = explainer.shap_values(_matrix(table, {}))
        # A binary classifier's two columns are each other's negative; the positive class is kept, as in boosters.
        return values[..., 1] if values.ndim == 3 and len(getattr(model, "classes_", ())) == 2 else values
    if method == "auto":
        return None
    message = f"explain.method {method} does not fit {type(model).__name__}; put auto or permutation"
    raise ModelRefused(message)


def _tree_explainer(model: Any) -> Any:
    """Make shap's tree explainer, or None if shap does not know the model."""
    # shap reads the categorical splits of HistGradientBoosting as numeric ones and is silently wrong.
    if _library_of(model) == "onnxruntime" or getattr(model, "is_categorical_", None) is not None:
        return None
    shap = _library("shap", "shap")
    try:
        return shap.TreeExplainer(model)
    except shap.utils._exceptions.InvalidModelError:  # noqa: SLF001 - shap has no public name for it
        return None


def _matrix(table: pa.Table, categories: dict[str, list[Any]]) -> Values:
    """Feature values as the trees compare them, shape (n, columns): codes of categories, NaN for missing."""
    return np.column_stack(
        [
            _codes(name, column, categories[name]) if name in categories else _numbers(name, column)
            for name, column in zip(table.column_names, table.columns, strict=True)
        ]
    )


def _codes(name: str, column: pa.ChunkedArray, known: list[Any]) -> Values:
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    kinds = {isinstance(value, str) for value in values if value is not None}
    if kinds and known and kinds != {isinstance(value, str) for value in known}:
        message = f"feature {name}: the model's categories are like {known[0]!r}, the sample has {column.type} values"
        raise ModelRefused(message)
    lookup = {value: code for code, value in enumerate(known)}
    codes = np.array([*(lookup.get(value, np.nan) for value in values), np.nan], dtype=np.float64)
    result: Values = codes[np.asarray(encoded.indices.fill_null(len(values)))]
    return result


def _numbers(name: str, column: pa.ChunkedArray) -> Values:
    try:
        # Arrow would parse text, and the model would be explained on something that it never saw.
        text = column.type in {pa.string(), pa.large_string()} and column.null_count < len(column)
        numbers = None if text else column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        numbers = None
    if numbers is None:
        message = (
            f"feature {name}: the model reads a number and keeps no categories of it; the sample has {column.type}"
        )
        raise ModelRefused(message)
    return np.asarray(numbers.fill_null(float("nan")).to_numpy(), dtype=np.float64)


@lru_cache(maxsize=2)
def _text_model(booster: Any) -> LightGBMText:
    return LightGBMText.of(booster.model_to_string())


@lru_cache(maxsize=2)
def _booster(model: LightGBMText) -> Any:
    """The model in LightGBM itself; held, since a replay explains with one model hour after hour."""
    return _library("lightgbm", "lightgbm").Booster(model_str=model.text)


def _lightgbm_values(
    model: LightGBMText,
    table: pa.Table,
    categorical: Sequence[str],
    *,
    threads: int,
    contributions: bool,
) -> Values:
    """Contributions, or raw scores, of a LightGBM model; LightGBM itself is imported where its text does not do."""
    matrix = _matrix(table, _lightgbm_categories(model, table.column_names, categorical))
    if not contributions:
        return np.asarray(_booster(model).predict(matrix, raw_score=True, num_threads=threads))
    # By the number of rows alone, so that the same sample gives the same digits.
    found = treeshap.contributions(model, matrix) if len(matrix) >= treeshap.LEAST_ROWS else None
    if found is None:
        flat = _booster(model).predict(matrix, pred_contrib=True, num_threads=threads)
        found = flat.reshape(len(flat), model.classes, -1)
    return _per_class(found)


def _lightgbm_categories(model: LightGBMText, columns: list[str], categorical: Sequence[str]) -> dict[str, list[Any]]:
    """Training categories of each categorical column.

    The file lists them in the order of the columns that had pandas' category type, but not which these were. They are
    the columns with categorical splits, or else the ones that the caller names: whichever agrees with the list.
    """
    trained = model.categories
    seen = dict(zip(columns, (model.infos.get(name, (False, -1.0)) for name in model.features), strict=True))
    by_model = [column for column in columns if seen[column][0]]
    by_name = [column for column in columns if column in categorical]
    for chosen in (by_model, by_name):
        pairs = dict(zip(chosen, trained, strict=False))
        fits = all(seen[column][1] < len(known) for column, known in pairs.items())
        if len(chosen) == len(trained) and fits:
            return pairs
    if not trained:
        return {}
    message = (
        f"the model has {len(trained)} categorical features, but its categories fit neither its own categorical splits "
        f"({by_model}) nor the features of type categorical ({by_name}); correct the types under features"
    )
    raise ModelRefused(message)


def _xgboost_values(
    booster: Any,
    table: pa.Table,
    categorical: Sequence[str],  # noqa: ARG001 - the model itself knows; all boosters are called alike
    *,
    threads: int,
    contributions: bool,
) -> Values:
    """Contributions, or raw scores, of an XGBoost booster; those with text categories need XGBoost 3.1."""
    kept = booster.get_categories(export_to_arrow=True).to_arrow() if hasattr(booster, "get_categories") else []
    known = [None if values is None else values.to_pylist() for _, values in kept]
    categories = {name: values for name, values in zip(table.column_names, known, strict=False) if values is not None}
    names, types = booster.feature_names, booster.feature_types
    booster.set_param({"nthread": threads})
    data = _library("xgboost", "xgboost").DMatrix(
        _matrix(table, categories), feature_names=names, feature_types=types, nthread=threads
    )
    if not contributions:
        return np.asarray(booster.predict(data, output_margin=True))
    values = booster.predict(data, pred_contribs=True)
    return _per_class(values.reshape(len(values), -1, values.shape[-1]))


BOOSTERS: dict[str, Callable[..., Values]] = {"lightgbm": _lightgbm_values, "xgboost": _xgboost_values}


def _per_class(values: Values) -> Values:
    """Turn (n, classes, columns + bias) into (n, columns[, classes])."""
    values = values[:, :, :-1].transpose(0, 2, 1)
    return values[:, :, 0] if values.shape[2] == 1 else values


def _permutation(
    model: object, table: pa.Table, background: pa.Table | None, *, categorical: Sequence[str], seed: int, threads: int
) -> Values:
    """Estimate by permutations: hidden features take the values of background rows."""
    missing = set(table.column_names) - set(background.column_names if background is not None else ())
    if background is None or background.num_rows == 0 or missing:
        message = f"{type(model).__name__} is explained by permutation against background rows of the reference"
        raise ModelRefused(f"{message}: no column {sorted(missing)}" if missing else f"{message}: there is no row")
    if table.num_rows > PERMUTATION_ROWS:
        message = f"permutation explains at most {PERMUTATION_ROWS} rows; got {table.num_rows}"
        raise ModelRefused(message)
    shap, threadpoolctl = _library("shap", "shap"), _library("threadpoolctl", "threadpoolctl")
    count = min(background.num_rows, BACKGROUND_ROWS)
    chosen = np.sort(np.random.default_rng(seed).choice(background.num_rows, count, replace=False))
    both = pa.concat_tables([table, _plain(background.take(chosen), table.column_names)], promote_options="permissive")
    # shap masks numbers only: it is given each value's place in its column's dictionary, nulls and text alike.
    coded = [column.combine_chunks().dictionary_encode(null_encoding="encode") for column in both.columns]
    codes = np.column_stack([column.indices.to_numpy() for column in coded]).astype(np.float64)

    def predict(cells: Values) -> Values:
        places = cells.astype(np.int64)
        columns = [column.dictionary.take(pa.array(places[:, index])) for index, column in enumerate(coded)]
        return _predict(model, pa.table(columns, names=table.column_names), categorical, threads)

    state = np.random.get_state()  # noqa: NPY002 - shap shuffles with numpy's global generator, which is put back
    try:
        with threadpoolctl.threadpool_limits(threads):
            masker = shap.maskers.Independent(codes[table.num_rows :], max_samples=count)
            explainer = shap.PermutationExplainer(predict, masker, seed=seed)
            evaluations = PERMUTATIONS * (2 * table.num_columns + 1)
            values = explainer(codes[: table.num_rows], max_evals=evaluations, silent=True).values
    finally:
        np.random.set_state(state)  # noqa: NPY002 - as above
    return np.asarray(values, dtype=np.float64)


def _predict(model: Any, table: pa.Table, categorical: Sequence[str], threads: int) -> Values:
    """Predict what the permutation explainer explains: raw score, probability or value; (n,) or (n, classes)."""
    library = _library_of(model)
    if library in BOOSTERS:
        return BOOSTERS[library](model, table, categorical, threads=threads, contributions=False)
    if library == "onnxruntime":
        outputs = model.run(None, _onnx_inputs(model, table))
        scores, probabilities = outputs[-1], len(outputs) > 1  # classifiers give label, probabilities
        if isinstance(scores, list):
            scores = [[row[label] for label in sorted(row)] for row in scores]
    else:
        frame = table.to_pandas()
        rows = frame if hasattr(model, "feature_names_in_") else frame.to_numpy()
        probabilities = hasattr(model, "predict_proba")
        scores = model.predict_proba(rows) if probabilities else model.predict(rows)
    scores = np.asarray(scores, dtype=np.float64).reshape(table.num_rows, -1)
    if scores.shape[1] == 1 or (probabilities and scores.shape[1] == 2):
        return scores[:, -1]
    return scores


def _onnx_inputs(session: Any, table: pa.Table) -> dict[str, NDArray[Any]]:
    """One matrix, or one column per input, in the types that the ONNX model declares; a null text is empty."""
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    nodes = session.get_inputs()
    if len(nodes) == 1:
        return {nodes[0].name: _matrix(table, {}).astype(types.get(nodes[0].type, np.float64))}
    inputs: dict[str, NDArray[Any]] = {}
    for node, (name, column) in zip(nodes, zip(table.column_names, table.columns, strict=True), strict=True):
        if node.type == "tensor(string)":
            values = np.array(column.cast(pa.string()).fill_null("").to_pylist(), dtype=object)
        else:
            values = _numbers(name, column).astype(types.get(node.type, np.int64))
        inputs[node.name] = values.reshape(-1, 1)
    return inputs
