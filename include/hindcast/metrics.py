"""One registry of every number that Hindcast stores: name, direction, range, unit, value when nothing changed.

Tables, pages, pushed metrics and docs all take their words from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["quality", "drift", "performance", "importance", "system"]
Worse = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """What is known of a number before it is computed.

    `worse` is the direction that harms (None: neither does); `null` the value expected when nothing has changed.
    """

    name: str
    family: Family
    title: str
    worse: Worse | None
    low: float
    high: float
    unit: str = ""
    null: str = ""


INF = float("inf")

_ALL = [
    # drift: what the textbook computes; the policy (hindcast.drift.policy) decides
    Metric("ks_statistic", "drift", "Kolmogorov-Smirnov D", "higher", 0, 1, null="about 0.87·sqrt(1/n + 1/m)"),
    Metric("chi2_statistic", "drift", "chi-square homogeneity", "higher", 0, INF, null="degrees of freedom"),
    Metric("phi_squared", "drift", "φ² (chi-square / n, balanced)", "higher", 0, INF, null="df·(1/n + 1/m)"),
    Metric("population_stability_index", "drift", "PSI", "higher", 0, INF, "nats", "(bins − 1)·(1/n + 1/m)"),
    Metric(
        "jensen_shannon_distance", "drift", "Jensen-Shannon distance, base 2", "higher", 0, 1, null="falls as 1/sqrt(n)"
    ),
    Metric(
        "wasserstein_normalized",
        "drift",
        "Wasserstein distance / σ of the baseline",
        "higher",
        0,
        INF,
        "σ",
        "falls as 1/sqrt(n)",
    ),
    Metric("missing_ratio_change", "drift", "change of the missing ratio", "higher", -1, 1, null="0"),
    Metric(
        "new_category_ratio_change", "drift", "change of the ratio of unknown categories", "higher", -1, 1, null="0"
    ),
    Metric("out_of_range_ratio", "drift", "rows far outside the good history", "higher", 0, 1, null="0"),
    Metric("g_statistic", "drift", "G, likelihood ratio of homogeneity", "higher", 0, INF, null="degrees of freedom"),
    Metric("cramers_v", "drift", "Cramér's V, corrected for bias", "higher", 0, 1, null="0 half of the time"),
    Metric("hellinger_distance", "drift", "Hellinger distance", "higher", 0, 1, null="falls as 1/sqrt(n)"),
    Metric("l_infinity", "drift", "largest change of one bin's share", "higher", 0, 1, null="falls as 1/sqrt(n)"),
    Metric("mann_whitney_superiority", "drift", "Mann-Whitney U / (n·m): P(current above)", None, 0, 1, null="0.5"),
    Metric("mean_shift", "drift", "change of the mean", None, -INF, INF, "σ", "0"),
    Metric("standard_deviation_ratio", "drift", "standard deviation / the baseline's", None, 0, INF, null="1"),
    Metric("median_shift", "drift", "change of the median", None, -INF, INF, "σ", "0"),
    Metric("quantile_05_shift", "drift", "change of the 5th percentile", None, -INF, INF, "σ", "0"),
    Metric("quantile_95_shift", "drift", "change of the 95th percentile", None, -INF, INF, "σ", "0"),
    Metric("zero_ratio_change", "drift", "change of the ratio of zeros", None, -1, 1, null="0"),
    Metric("out_of_range_ratio_change", "drift", "rows beyond the baseline's range", "higher", 0, 1, null="2/(m + 1)"),
    # drift of all features at once (hindcast.drift.multivariate)
    Metric(
        "pca_reconstruction_error",
        "drift",
        "distance of rows from the baseline's principal plane",
        "higher",
        0,
        INF,
        "σ",
        "that of the baseline's chunks",
    ),
    Metric("domain_classifier_auc", "drift", "AUC of trees that tell window from baseline", "higher", 0, 1, null="0.5"),
    Metric("domain_classifier_importance", "drift", "share of those trees' gain", None, 0, 1, null="1 / features"),
    Metric(
        "correlation_change",
        "drift",
        "largest change of a pair's rank correlation",
        "higher",
        0,
        2,
        null="falls as 1/sqrt(n)",
    ),
    # performance, classification; the names are scikit-learn's
    Metric("accuracy", "performance", "accuracy", "lower", 0, 1),
    Metric("precision", "performance", "precision", "lower", 0, 1),
    Metric("recall", "performance", "recall", "lower", 0, 1),
    Metric("f1", "performance", "F1", "lower", 0, 1),
    Metric("roc_auc", "performance", "ROC AUC", "lower", 0, 1),
    Metric("average_precision", "performance", "average precision", "lower", 0, 1),
    Metric("brier_score_loss", "performance", "Brier score", "higher", 0, 1),
    Metric("log_loss", "performance", "log loss", "higher", 0, INF, "nats"),
    # performance, regression
    Metric("mean_absolute_error", "performance", "mean absolute error", "higher", 0, INF),
    Metric("root_mean_squared_error", "performance", "root mean squared error", "higher", 0, INF),
    Metric("mean_absolute_percentage_error", "performance", "mean absolute percentage error", "higher", 0, INF),
    Metric("r2", "performance", "R²", "lower", -INF, 1),
    # performance, service
    Metric("latency_p50_ms", "performance", "latency, median", "higher", 0, INF, "ms"),
    Metric("latency_p95_ms", "performance", "latency, 95th percentile", "higher", 0, INF, "ms"),
    Metric("latency_p99_ms", "performance", "latency, 99th percentile", "higher", 0, INF, "ms"),
    Metric("request_count", "performance", "predictions", None, 0, INF, "rows"),
    Metric("error_rate", "performance", "requests that failed", "higher", 0, 1),
    # quality
    Metric("missing_ratio", "quality", "missing values (null, NaN or no column)", "higher", 0, 1),
    Metric("below_min_ratio", "quality", "values below the configured minimum", "higher", 0, 1),
    Metric("above_max_ratio", "quality", "values above the configured maximum", "higher", 0, 1),
    Metric("unexpected_value_ratio", "quality", "values outside the allowed ones", "higher", 0, 1),
    Metric("non_finite_ratio", "quality", "infinite values", "higher", 0, 1),
    Metric("column_present", "quality", "column is there", "lower", 0, 1),
    Metric("column_type", "quality", "column has the configured type", "lower", 0, 1),
    Metric("duplicate_ratio", "quality", "duplicated prediction ids", "higher", 0, 1),
    Metric("row_count", "quality", "rows against the usual volume", None, 0, INF, "rows"),
    Metric("freshness_minutes", "quality", "age of the newest prediction at the window's end", "higher", 0, INF, "min"),
    Metric("misplaced_ratio", "quality", "rows whose timestamp lies outside their partition", "higher", 0, 1),
    Metric("unreadable_objects", "quality", "log objects that could not be read", "higher", 0, INF, "objects"),
    # what the predictions stand on
    Metric("mean_absolute_shap", "importance", "mean |SHAP value|", None, 0, INF),
    # our own health
    Metric("refused_pushes", "system", "metrics that the Pushgateway refused", "higher", 0, INF, "groups"),
]

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
