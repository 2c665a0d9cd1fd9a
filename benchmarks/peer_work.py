"""What each library is asked to do with two Parquet files, as its own documentation shows it.

``python peer_work.py NAME REFERENCE CURRENT`` runs under the Python of that library's environment and prints how many
numbers came out. All of them read only the features; types are declared wherever a library can be told.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Numbers = int


def features(path: str) -> tuple[list[str], list[str]]:
    """Names of the numeric and of the text features."""
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    return [n for n in names if n.startswith("feature_n")], [n for n in names if n.startswith("feature_t")]


def frames(reference: str, current: str) -> tuple[Any, Any]:
    """Both files as data frames, only the columns that are needed."""
    import pandas as pd

    numeric, text = features(current)
    return pd.read_parquet(reference, columns=numeric + text), pd.read_parquet(current, columns=numeric + text)


def hindcast(reference_profile: str, current: str) -> Numbers:
    """Profile the current rows with the bins of the reference's profile; every statistic of every feature."""
    from hindcast.profile import files
    from hindcast.profiling import profile_files

    output = Path(current).with_suffix(".profile")
    profile_files([current], reference_profile, output, 1024)
    return drift(files.load(Path(reference_profile)), files.load(output))


def hindcast_both(reference: str, current: str) -> Numbers:
    """The same, but fit the bins to the reference rows and profile them too: what is done once per reference."""
    from hindcast.profiling import profile_files

    kept = Path(current).with_suffix(".reference")
    profile_files([reference], None, kept, 1024)
    return hindcast(str(kept), current)


def drift(then: Any, now: Any) -> Numbers:
    """Distances and p-values of two profiles with the same bins, all features at once."""
    import numpy as np

    from hindcast.drift import moments
    from hindcast.drift import significance as p
    from hindcast.drift import statistics as s

    bins = now.bins
    a, b = then.numeric[:, : bins.width], now.numeric[:, : bins.width]
    n, m = a.sum(axis=1), b.sum(axis=1)
    deciles = s.merge_bins(a, b, groups=10)
    scale = moments.binned_std(bins.padded_edges, a, then.values())
    ks = s.ks_statistic(a, b)
    found = [ks, p.ks_pvalue(ks, n, m)]
    found += [s.population_stability_index(*deciles), s.jensen_shannon_distance(*deciles)]
    found += [s.hellinger_distance(*deciles), s.total_variation(*deciles), s.kl_divergence(*deciles)]
    found += [moments.wasserstein_normalized(bins.padded_edges, a, then.values(), b, now.values(), scale=scale)]
    known = s.pool_rare(then.categorical, now.categorical)
    chi2, freedom = s.chi2_statistic(*known), s.degrees_of_freedom(*known)
    found += [chi2, p.chi2_pvalue(chi2, freedom), s.cramers_v(*known), s.population_stability_index(*known)]
    found += [s.jensen_shannon_distance(*known), s.hellinger_distance(*known), s.l_infinity(*known)]
    missing = [profile.numeric[:, bins.width] for profile in (then, now)]
    found += [p.two_proportion_pvalue(missing[0], then.rows, missing[1], now.rows)]
    return int(sum(np.isfinite(values).sum() for values in found))


def evidently(preset: str, reference: str, current: str) -> Numbers:
    """Evidently's report with one of its presets, all options as they come."""
    from evidently import DataDefinition, Dataset, Report, presets

    numeric, text = features(current)
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=text)
    then, now = (Dataset.from_pandas(frame, data_definition=definition) for frame in frames(reference, current))
    result = Report([getattr(presets, preset)()]).run(now, then)
    return len(json.loads(result.json())["metrics"])


def evidently_drift(reference: str, current: str) -> Numbers:
    return evidently("DataDriftPreset", reference, current)


def evidently_summary(reference: str, current: str) -> Numbers:
    return evidently("DataSummaryPreset", reference, current)


def nannyml(reference: str, current: str) -> Numbers:
    """Univariate drift of one chunk, the current rows: KS and Jensen-Shannon, chi-square and Jensen-Shannon."""
    import nannyml as nml

    numeric, text = features(current)
    then, now = frames(reference, current)
    calculator = nml.UnivariateDriftCalculator(
        column_names=numeric + text,
        continuous_methods=["kolmogorov_smirnov", "jensen_shannon"],
        categorical_methods=["chi2", "jensen_shannon"],
        chunk_number=1,
    )
    calculator.fit(then)
    return int(calculator.calculate(now).filter(period="analysis").to_df().xs("value", axis=1, level=2).size)


def whylogs(reference: str, current: str) -> Numbers:
    """Profile both sides, and the default drift score of every column."""
    import whylogs as why
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    then, now = (why.log(pandas=frame).profile().view() for frame in frames(reference, current))
    return len(calculate_drift_scores(target_view=now, reference_view=then, with_thresholds=True))


def great_expectations(reference: str, current: str) -> Numbers:
    """Three expectations for each feature, fitted to the reference: nulls, range or domain, mean or variety."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    expect, suite = gx.expectations, gx.ExpectationSuite(name="features")
    then, now = frames(reference, current)
    numeric, text = features(current)
    for name in numeric + text:
        suite.add_expectation(expect.ExpectColumnValuesToNotBeNull(column=name, mostly=0.9))
    for name in numeric:
        low, high, mean = float(then[name].min()), float(then[name].max()), float(then[name].mean())
        suite.add_expectation(expect.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high))
        suite.add_expectation(expect.ExpectColumnMeanToBeBetween(column=name, min_value=mean - 1, max_value=mean + 1))
    for name in text:
        values = then[name].dropna().unique().tolist()
        suite.add_expectation(expect.ExpectColumnValuesToBeInSet(column=name, value_set=values))
        suite.add_expectation(expect.ExpectColumnUniqueValueCountToBeBetween(column=name, max_value=len(values)))
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": now})
    found = batch.validate(context.suites.add(suite)).results
    broken = [r.exception_info for r in found if r.exception_info and r.exception_info.get("raised_exception")]
    return sys.exit(f"an expectation failed to run: {broken[0]}") if broken else len(found)


def pandas_scipy(reference: str, current: str) -> Numbers:
    """The script that people write themselves: ks_2samp, chi2_contingency and the share of missing values."""
    import pandas as pd
    from scipy.stats import chi2_contingency, ks_2samp

    numeric, text = features(current)
    then, now = frames(reference, current)
    found = [ks_2samp(then[name].dropna(), now[name].dropna()) for name in numeric]
    for name in text:
        counts = pd.concat([frame[name].value_counts() for frame in (then, now)], axis=1).fillna(0)
        found.append(chi2_contingency(counts.to_numpy()))
    return 2 * len(found) + then.isna().mean().size + now.isna().mean().size


def frouros(reference: str, current: str) -> Numbers:
    """Two-sample KS test for each numeric feature, chi-square for each text feature."""
    import pyarrow.parquet as pq
    from frouros.detectors.data_drift import ChiSquareTest, KSTest

    numeric, text = features(current)
    found = []
    for name in numeric + text:
        detector = KSTest() if name in numeric else ChiSquareTest()
        then, now = (
            pq.ParquetFile(path).read([name]).column(name).drop_null().to_numpy() for path in (reference, current)
        )
        detector.fit(X=then)
        found.append(detector.compare(X=now)[0])
    return 2 * len(found)


WORK = (
    hindcast, hindcast_both, evidently_drift, evidently_summary, nannyml, whylogs, great_expectations, pandas_scipy,
    frouros,
)  # fmt: skip


def main() -> None:
    name, reference, current = sys.argv[1:]
    print(f"{ {work.__name__: work for work in WORK}[name](reference, current) } numbers")


if __name__ == "__main__":
    main()
