r"""Exact SHAP values of a LightGBM model for many rows at once, ten times as fast as LightGBM's own.

A leaf gives to every feature on its path an amount that depends only on *which* of these features lead the row its way.
With :math:`o_j` 1 where feature j does and 0 where not, and :math:`z_j` the share of the training rows that do, the
sum over all orders of features is an integral over t in [0, 1],

.. math:: \phi_i = v\,(o_i - z_i) \int \prod_{j \ne i} (o_j t + z_j (1 - t))\,dt,

a polynomial that few points integrate exactly. So the amounts are tabulated once per model, by the pattern of all the
decisions that matter to some neighbouring leaves; a row then needs one look into each table.

The model is read from the text that ``Booster.save_model`` writes, so that LightGBM need not be imported.

References: Lundberg et al., Nature Machine Intelligence 2, 2020 (the values); Yang, "Fast TreeSHAP", 2021 (the tables).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ranks = NDArray[np.unsignedinteger[Any]]
    Literal = tuple[int, bool]  # a node, and whether its left way is meant

# From so many rows on the tables pay for themselves.
LEAST_ROWS = 500
# Decisions per table: more make fewer tables, which are larger.
_BITS, _MOST_BITS = 11, 12
_HELD_LEAVES = 50_000
_ZERO = 1e-35  # LightGBM's kZeroThreshold
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_DEEPEST = 62  # a path's features are bits of one integer
_VERSIONS = {"v3", "v4"}


@dataclass(frozen=True)
class Tree:
    """One tree as LightGBM writes it: nodes by number, a leaf k as child ``-k - 1``; `cover` counts training rows."""

    feature: NDArray[np.int64]
    threshold: Floats
    decision: NDArray[np.int64]
    left: list[int]
    right: list[int]
    value: Floats
    node_cover: list[float]
    leaf_cover: list[float]
    categories: list[NDArray[np.uint32]]

    def cover(self, node: int) -> float:
        """Training rows that came by."""
        return self.node_cover[node] if node >= 0 else self.leaf_cover[-node - 1]

    @cached_property
    def lefts(self) -> list[tuple[int, NDArray[np.bool_]]]:
        """Categorical nodes, and for each which codes it sends left, the last for all that it does not know."""
        nodes = np.flatnonzero(self.decision & _CATEGORICAL).tolist()
        words = [self.categories[int(self.threshold[node])].astype("<u4").view(np.uint8) for node in nodes]
        known = [np.append(np.unpackbits(word, bitorder="little").astype(bool), False) for word in words]
        return list(zip(nodes, known, strict=True))

    def decisions(self, rows: Rows, ranks: Ranks) -> NDArray[np.uint16]:
        """1 where a row goes left at a node, (n_nodes, n); `ranks` of the thresholds, (n_nodes,)."""
        # A special value goes the node's default way, whatever the threshold: as -inf left, as NaN right.
        kinds = (self.decision >> 2) & 3
        variant = np.where(kinds == 0, 0, 2 * kinds - ((self.decision & _DEFAULT_LEFT) > 0))
        left = rows.ranks[variant * len(rows.missing) + self.feature] <= ranks[:, None]
        for node, known in self.lefts:
            left[node] = known[np.minimum(rows.codes[self.feature[node]], known.size - 1)]
        return left.view(np.uint8).astype(np.uint16)


@dataclass(frozen=True)
class Rows:
    """Values by feature: whole ones as codes, -1 for `missing`, (n_features, n); ranks among the model's thresholds.

    A value is at most a threshold where its rank is; whole numbers of two bytes compare eight times as fast. `ranks`
    has five variants, (5 * n_features, n): missing as 0; then, for trees that treat 0 so, 0 and missing as -inf and as
    NaN, which is above every threshold; then missing as -inf and as NaN.
    """

    codes: NDArray[np.int64]
    missing: NDArray[np.bool_]
    ranks: Ranks

    @classmethod
    def of(cls, matrix: Floats, thresholds: list[Floats]) -> Rows:
        """Rows of a matrix (n, n_features), NaN where missing."""
        columns = np.ascontiguousarray(matrix.T, dtype=np.float64)
        missing = np.isnan(columns)
        values = np.where(missing, 0.0, columns)
        above = max(known.size for known in thresholds) + 1
        kind = np.min_scalar_type(above)
        plain = np.array([known.searchsorted(row) for known, row in zip(thresholds, values, strict=True)]).astype(kind)
        special = (np.abs(values) <= _ZERO, missing)
        both = [np.where(where, kind.type(end), plain) for where in special for end in (0, above)]
        codes = np.where(missing | (values <= -1), -1.0, np.minimum(values, 2.0**62)).astype(np.int64)
        return cls(codes, missing, np.concatenate([plain, *both]))


@dataclass(frozen=True)
class Group:
    """Neighbouring leaves: what the decisions about them give to each feature.

    A row's pattern has a bit per decision, lowest first: `nodes` are asked, and `flip` has the bits that mean right;
    `joint` replaces bits that mean several decisions at once. `table` has shape (n_features, 2 ** n_bits), or is None
    where there are too many bits, and the one leaf's `shares` and `value` stand for it.
    """

    nodes: NDArray[np.intp]
    flip: int
    joint: list[tuple[int, list[Literal]]]
    features: list[int]
    table: Floats | None
    shares: Floats
    value: float

    @classmethod
    def of(cls, bits: list[list[Literal]], *rest: Any) -> Group:
        """With its bits as conjunctions of decisions."""
        single = [literals[0] if len(literals) == 1 else (0, True) for literals in bits]
        flip = sum(1 << k for k, (_, left) in enumerate(single) if not left)
        joint = [(k, literals) for k, literals in enumerate(bits) if len(literals) > 1]
        return cls(np.array([node for node, _ in single]), flip, joint, *rest)

    def patterns(self, left: NDArray[np.uint16]) -> NDArray[np.intp]:
        """The pattern of each row."""
        kind = np.uint16 if self.table is not None else np.int64
        bits = left[self.nodes].astype(kind, copy=False)
        for k, literals in self.joint:
            bits[k] = np.all([left[node] == way for node, way in literals], axis=0)
        np.left_shift(bits, np.arange(len(bits), dtype=kind)[:, None], out=bits)
        patterns: NDArray[np.intp] = (np.bitwise_or.reduce(bits, axis=0) ^ kind(self.flip)).astype(np.intp)
        return patterns


@dataclass(frozen=True, eq=False)
class LightGBMText:
    """A LightGBM model as its text says: all that explaining needs.

    `features` are the names in the model's order, `classes` its trees per round, `categories` the values of training
    of each column that was a pandas category. `infos` has per feature whether it was a category, and its largest value
    (or code) of training; features that were never split are not in it. `trees` is None where some are not of the plain
    kind, and left to LightGBM: linear ones, averaged ones (random forests), leaves that saw no row, very deep
    ones, other versions.
    """

    text: str
    features: list[str]
    classes: int
    infos: dict[str, tuple[bool, float]]
    categories: list[list[Any]]
    trees: list[Tree] | None

    @classmethod
    def of(cls, text: str) -> LightGBMText:
        """Read the text of a whole model.

        Raises
        ------
        ValueError, KeyError, IndexError
            It is none.
        """
        head, *parts = re.split(r"^Tree=\d+\n", text.partition("\nend of trees")[0], flags=re.MULTILINE)
        keys = _keys(head)
        kept = re.findall(r"^pandas_categorical:(.*)$", text, re.MULTILINE)
        names = keys["feature_names"].split()
        infos = dict(zip(names, map(_info, keys["feature_infos"].split()), strict=True))
        plain = keys["version"] in _VERSIONS and not re.search(r"^average_output", head, re.MULTILINE)
        return cls(
            text,
            names,
            int(keys["num_tree_per_iteration"]),
            {name: info for name, info in infos.items() if info is not None},
            json.loads(kept[-1]) or [] if kept else [],
            _trees(parts) if plain else None,
        )

    @property
    def tables(self) -> Iterable[tuple[Tree, list[Group]]] | None:
        """Trees with their tables: held, unless the model is very large."""
        if self.trees is None:
            return None
        if sum(tree.value.size for tree in self.trees) > _HELD_LEAVES:
            return ((tree, _groups(tree)) for tree in self.trees)
        return self._held

    @cached_property
    def thresholds(self) -> list[Floats]:
        """What each feature is compared with anywhere in the model, ascending."""
        trees = self.trees or []
        of = np.concatenate([np.empty(0, np.int64), *(tree.feature for tree in trees)])
        values = np.concatenate([np.empty(0), *(tree.threshold for tree in trees)])
        return [np.unique(values[of == feature]) for feature in range(len(self.features))]

    @cached_property
    def ranks(self) -> list[Ranks]:
        """Per tree, the places of its thresholds among those of the same feature, (n_nodes,)."""
        kind = np.min_scalar_type(max(known.size for known in self.thresholds) + 1)
        nodes = [zip(tree.feature.tolist(), tree.threshold.tolist(), strict=True) for tree in self.trees or ()]
        return [np.array([self.thresholds[f].searchsorted(at) for f, at in tree], dtype=kind) for tree in nodes]

    @cached_property
    def _held(self) -> list[tuple[Tree, list[Group]]]:
        return [(tree, _groups(tree)) for tree in self.trees or ()]


def contributions(model: LightGBMText, matrix: Floats) -> Floats | None:
    """SHAP values of every row; the same as LightGBM's ``pred_contrib`` but for rounding.

    Parameters
    ----------
    model : LightGBMText
    matrix : float64 array of shape (n, n_features)
        As the trees compare them: codes of categories, NaN for missing.

    Returns
    -------
    float64 array of shape (n, n_classes, n_features + 1), the last column 0 where LightGBM has the bias; or None where
    `LightGBMText.trees` is.
    """
    tables = model.tables
    if tables is None:
        return None
    rows = Rows.of(matrix, model.thresholds)
    result = np.zeros((model.classes, matrix.shape[1] + 1, matrix.shape[0]))
    for k, (tree, groups) in enumerate(tables):
        left = tree.decisions(rows, model.ranks[k])
        for group in groups:
            _add(group, left, result[k % model.classes])
    return result.transpose(2, 0, 1)


# Reading


def _keys(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, equals, value in pairs if equals}


def _info(text: str) -> tuple[bool, float] | None:
    """``[least:largest]`` of a number, codes as ``3:0:1`` of a category, ``none`` of what was never split."""
    if text == "none":
        return None
    if text.startswith("["):
        return False, float(text.strip("[]").split(":")[1])
    return True, max(float(code) for code in text.split(":"))


def _trees(parts: Sequence[str]) -> list[Tree] | None:
    found = []
    for part in parts:
        keys = _keys(part)
        if keys.get("is_linear", "0") != "0":
            return None
        tree = _tree(keys)
        if min(tree.leaf_cover, default=1.0) <= 0 or _depth(tree) > _DEEPEST:
            return None
        found.append(tree)
    return found


def _depth(tree: Tree) -> int:
    depth, level = 0, [0] if tree.left else []
    while level:
        depth, level = depth + 1, [way[node] for node in level for way in (tree.left, tree.right) if way[node] >= 0]
    return depth


def _tree(keys: dict[str, str]) -> Tree:
    def numbers(name: str) -> list[float]:
        return [float(word) for word in keys.get(name, "").split()]

    bounds = [int(number) for number in numbers("cat_boundaries")]
    words = np.array(numbers("cat_threshold")).astype(np.uint32)
    return Tree(
        np.array(numbers("split_feature"), dtype=np.int64),
        np.array(numbers("threshold")),
        np.array(numbers("decision_type"), dtype=np.int64),
        [int(child) for child in numbers("left_child")],
        [int(child) for child in numbers("right_child")],
        np.array(numbers("leaf_value")),
        numbers("internal_count"),
        numbers("leaf_count"),
        [words[start:end] for start, end in pairwise(bounds)],
    )


# Tables


@dataclass(frozen=True)
class _Path:
    """How a node is reached: per feature the literals and the share of training rows that go this way."""

    literals: dict[int, list[Literal]]
    shares: dict[int, float]

    def then(self, tree: Tree, node: int, *, left: bool) -> _Path:
        feature, child = int(tree.feature[node]), tree.left[node] if left else tree.right[node]
        share = tree.cover(child) / tree.cover(node)
        literals = {**self.literals, feature: [*self.literals.get(feature, []), (node, left)]}
        return _Path(literals, {**self.shares, feature: self.shares.get(feature, 1.0) * share})


def _groups(tree: Tree) -> list[Group]:
    if not tree.left:
        return []
    made = list(_split(tree, 0, _Path({}, {})))
    leaves = [(leaf, path) for _, _, members in made for leaf, path in members]
    tables = _leaf_tables(tree, leaves)
    return [_group(tree, path, inner, members, tables) for path, inner, members in made]


def _split(tree: Tree, node: int, path: _Path) -> Iterator[tuple[_Path, list[int], list[tuple[int, _Path]]]]:
    """Cut the tree into subtrees of few decisions: path to it, nodes in it, its leaves with their own paths."""
    inner, members = _inside(tree, node, path)
    if node < 0 or len(path.literals) + len(inner) <= _BITS:
        yield path, inner, members
        return
    for left, child in ((True, tree.left[node]), (False, tree.right[node])):
        yield from _split(tree, child, path.then(tree, node, left=left))


def _inside(tree: Tree, node: int, path: _Path) -> tuple[list[int], list[tuple[int, _Path]]]:
    if node < 0:
        return [], [(-node - 1, path)]
    nodes, members = [node], list[tuple[int, _Path]]()
    for left, child in ((True, tree.left[node]), (False, tree.right[node])):
        below, found = _inside(tree, child, path.then(tree, node, left=left))
        nodes, members = nodes + below, members + found
    return nodes, members


def _leaf_tables(tree: Tree, leaves: Sequence[tuple[int, _Path]]) -> dict[int, Floats]:
    """Leaf -> table (n_features, 2 ** n_features) over the pattern of its own features; those of one size at once."""
    tables: dict[int, Floats] = {}
    for size in {len(path.shares) for _, path in leaves if len(path.shares) <= _MOST_BITS}:
        same = [(leaf, path) for leaf, path in leaves if len(path.shares) == size]
        shares = np.array([list(path.shares.values()) for _, path in same])
        found = amounts(_patterns(size)[None], shares, tree.value[[leaf for leaf, _ in same]])
        tables.update({leaf: found[row] for row, (leaf, _) in enumerate(same)})
    return tables


def amounts(onward: Floats, shares: Floats, values: Floats) -> Floats:
    """What leaves give to the features on their paths.

    Parameters
    ----------
    onward : float64 array of shape (1 or n_leaves, n_features, n_patterns)
        1 where a feature leads to the leaf, else 0.
    shares : float64 array of shape (n_leaves, n_features)
        Share of the training rows that each feature leads to the leaf, in (0, 1].
    values : float64 array of shape (n_leaves,)

    Returns
    -------
    float64 array of shape (n_leaves, n_features, n_patterns)

    Examples
    --------
    A leaf worth 8 behind two features, each of which leads half of the rows there; a row that both lead there:

    >>> amounts(np.ones((1, 2, 1)), np.array([[0.5, 0.5]]), np.array([8.0])).ravel().tolist()
    [3.0, 3.0]
    """
    share = shares[:, :, None]
    total = np.zeros(np.broadcast_shapes(onward.shape, share.shape))
    for t, weight in zip(*_quadrature(shares.shape[1]), strict=True):
        factors = onward * t + share * (1 - t)
        total += weight * factors.prod(axis=1, keepdims=True) / factors
    result: Floats = values[:, None, None] * (onward - share) * total
    return result


@lru_cache
def _quadrature(size: int) -> tuple[Floats, Floats]:
    """Points and weights that integrate polynomials of degree below `size` over [0, 1] exactly."""
    points, weights = np.polynomial.legendre.leggauss((size + 1) // 2)
    return (points + 1) / 2, weights / 2


@lru_cache
def _patterns(size: int) -> Floats:
    """Bits of every pattern, (size, 2 ** size)."""
    return (np.arange(2**size) >> np.arange(size)[:, None] & 1).astype(np.float64)


def _group(
    tree: Tree, path: _Path, inner: list[int], members: list[tuple[int, _Path]], tables: dict[int, Floats]
) -> Group:
    bits = [*path.literals.values(), *([(node, True)] for node in inner)]
    features = list(dict.fromkeys(feature for _, own in members for feature in own.shares))
    leaf, own = members[0]
    shares, value = np.array(list(own.shares.values())), float(tree.value[leaf])
    if len(bits) > _MOST_BITS:
        return Group.of(bits, features, None, shares, value)
    patterns = np.arange(2 ** len(bits))
    place = {node: len(path.literals) + k for k, node in enumerate(inner)}
    reached = {feature: patterns >> k & 1 for k, feature in enumerate(path.literals)}
    table = np.zeros((len(features), patterns.size))
    for leaf, own in members:
        pattern = np.zeros_like(patterns)
        for k, (feature, literals) in enumerate(own.literals.items()):
            bit = reached.get(feature, 1)
            for node, left in literals[len(path.literals.get(feature, ())) :]:
                bit = bit & ((patterns >> place[node] & 1) == left)
            pattern |= bit << k
        table[[features.index(feature) for feature in own.shares]] += tables[leaf][:, pattern]
    return Group.of(bits, features, table, shares, value)


# Rows


def _add(group: Group, left: NDArray[np.uint16], result: Floats) -> None:
    """Add what the leaves of a group give, to `result` of shape (n_features + 1, n)."""
    table, place = group.table, group.patterns(left)
    if table is None:
        found, place = np.unique(place, return_inverse=True)
        onward = (found >> np.arange(len(group.nodes))[:, None] & 1).astype(np.float64)
        table = amounts(onward[None], group.shares[None], np.array([group.value]))[0]
    for feature, column in zip(group.features, table, strict=True):
        result[feature] += column.take(place, mode="clip")  # every place is inside: nothing to look for
