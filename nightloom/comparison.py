"""Comparison: what two generations score on the same queries, and the queries that got worse by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nightloom.evaluation import Scores
from nightloom.retrieval import Ranking

RESAMPLES = 2_000
RESAMPLES_AT_ONCE = 100
CONFIDENCE = 0.95
SEED = 0
"""Of the resampling: the same scores give the same interval."""
SHOWN_DOCUMENTS = 3
"""Of a query that got worse: what was found first, before and now."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of a candidate against the live generation, paired on the same queries.

    Attributes:
        candidate: Its mean.
        live: The live generation's mean.
        low: Lower end of the bootstrap interval (95 %) of the mean difference.
        high: Upper end.
        paired: Whether both were asked in the same run; else the live mean is what it scored when it was promoted, and
            there is no interval: low and high are the difference itself.
    """

    metric: str
    candidate: float
    live: float
    low: float
    high: float
    paired: bool = True

    @property
    def mean(self) -> float:
        """Candidate minus live: below zero, the candidate is worse."""
        return self.candidate - self.live


@dataclass(frozen=True, slots=True)
class Loser:
    """A query that the candidate answers worse than the live generation does.

    Attributes:
        before: Value of the metric on the live generation.
        now: On the candidate.
        found_before: URIs that the live generation found first.
        found_now: That the candidate found first.
    """

    query: str
    metric: str
    before: float
    now: float
    found_before: tuple[str, ...]
    found_now: tuple[str, ...]


def compare(candidate: Scores, live: Scores) -> list[Difference]:
    """The paired difference of every metric, over the queries that both were asked."""
    return [_difference(metric, candidate, live) for metric in candidate.means]


def compare_means(candidate: Scores, means: Mapping[str, float]) -> list[Difference]:
    """The same against means that a generation scored earlier, where it cannot be asked."""
    return [
        Difference(metric, mean, means[metric], mean - means[metric], mean - means[metric], paired=False)
        for metric, mean in candidate.means.items()
        if metric in means
    ]


def _difference(metric: str, candidate: Scores, live: Scores) -> Difference:
    queries = sorted(candidate.per_query.keys() & live.per_query.keys())
    now = np.array([candidate.per_query[query][metric] for query in queries])
    before = np.array([live.per_query[query][metric] for query in queries])
    if not queries:
        return Difference(metric, 0.0, 0.0, 0.0, 0.0)
    low, high = _interval(now - before)
    return Difference(metric, float(now.mean()), float(before.mean()), low, high)


def _interval(differences: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap of the mean.

    Args:
        differences: Shape (queries,).
    """
    random = np.random.default_rng(SEED)
    shape = (RESAMPLES_AT_ONCE, len(differences))
    means = [random.choice(differences, shape).mean(axis=1) for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def losers(candidate: Scores, live: Scores, metric: str) -> list[Loser]:
    """The queries that score less on the candidate, the worst first."""
    found = [
        Loser(
            query,
            metric,
            live.per_query[query][metric],
            values[metric],
            _first(live.rankings.get(query, ())),
            _first(candidate.rankings.get(query, ())),
        )
        for query, values in candidate.per_query.items()
        if query in live.per_query and values[metric] < live.per_query[query][metric]
    ]
    return sorted(found, key=lambda one: (one.now - one.before, one.query))


def _first(ranking: Ranking | Sequence[tuple[str, float]]) -> tuple[str, ...]:
    return tuple(uri for uri, _ in ranking[:SHOWN_DOCUMENTS])
