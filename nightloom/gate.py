"""What stops a night before readers see it: each check gives its reason in words, or nothing."""

import math
from collections.abc import Collection, Iterator, Mapping

from nightloom.comparison import Difference, Loser
from nightloom.corpus import GateSettings
from nightloom.errors import Held
from nightloom.evaluation import Judged
from nightloom.probes import ALIKE, ProbeScores, VectorChecks
from nightloom.report import shortened

ALWAYS_ALLOWED = 10
"""Documents that may go, or be quarantined, however small the corpus is."""
NAMED = 3


def check_removals(removed: int, live: int, settings: GateSettings) -> None:
    """Hold a night whose listing lacks suspiciously many of the live documents, before anything is built.

    Raises:
        Held: Says how many are gone and how many may be.
    """
    allowed = max(ALWAYS_ALLOWED, int(settings.max_removed * live))
    if removed > allowed:
        raise Held(
            f"{removed} of {live} live documents are gone from the corpus, and gate.max_removed ="
            f" {settings.max_removed:g} allows {allowed}; check the sources; if the documents are to go, run once with"
            " --allow-removals (in the UI: Custom run, Allow removals)"
        )


def too_many_quarantined(quarantined: int, listed: int, settings: GateSettings) -> Iterator[str]:
    """Suspiciously many documents of tonight could not be taken."""
    allowed = max(ALWAYS_ALLOWED, int(settings.max_quarantined * listed))
    if quarantined > allowed:
        yield (
            f"{quarantined} of {listed} documents are quarantined, and gate.max_quarantined ="
            f" {settings.max_quarantined:g} allows {allowed}; the report names them with their reasons"
        )


def set_aside_in_words(judged: Judged) -> str:
    """How many golden queries are set aside, and which."""
    texts, aside = judged.golden.texts, judged.set_aside
    named = "; ".join(f'"{shortened(texts[query])}"' for query in aside[:NAMED])
    more = f"; and {len(aside) - NAMED} more" if len(aside) > NAMED else ""
    return (
        f"{len(aside)} of {len(texts)} judged queries are set aside, as none of their relevant documents is in the"
        f" corpus any more, and count for no score: {named}{more}"
    )


def too_many_set_aside(judged: Judged, before: Collection[str], settings: GateSettings) -> Iterator[str]:
    """The scores are of suspiciously few queries; those that readers' generation lacks the documents of are no news.

    Args:
        judged: Tonight's.
        before: Queries that are set aside on the live generation already.
        settings: The gate's.
    """
    texts, aside = judged.golden.texts, judged.set_aside
    allowed = max(min(1, len(texts) - 1), int(settings.max_set_aside * len(texts)))
    if len(aside) > allowed and not set(aside) <= set(before):
        yield (
            f"{set_aside_in_words(judged)} (gate.max_set_aside = {settings.max_set_aside:g} allows {allowed}); if the"
            " documents are to go, take these queries out of the golden queries, or promote tonight's generation"
        )


def wrong_vectors(checks: VectorChecks) -> Iterator[str]:
    """A sample of the rows shows that something is wrong with all of them."""
    counts = (
        (checks.absent, "are not there"),
        (checks.unusable, "have a vector that is zero or not finite"),
        (checks.not_unit, "have a vector that is not of unit length"),
    )
    for count, what in counts:
        if count:
            yield f"{count} of {checks.sampled + checks.absent} rows that were looked at {what}"
    if checks.alike > ALIKE:
        yield (
            f"the vectors of different texts are one and the same (mean similarity {checks.alike:.5f}): the embedder"
            " tells nothing apart"
        )


def may_miss(asked: int, recall: float) -> int:
    """How many of so many probes may miss, where this recall is asked for.

    Rounded up, to half at most, so that the one passage that says nothing of its document holds no night of a small
    corpus.
    """
    share = round(asked * (1 - recall), 6)
    return max(int(share), min(math.ceil(share), asked // 2))


def lost_probes(probes: ProbeScores, settings: GateSettings) -> Iterator[str]:
    """Sentences of the corpus do not find their documents."""
    if len(probes.missed) > may_miss(probes.asked, settings.probe_recall):
        missed = ", ".join(probe.uri for probe in probes.missed[:NAMED])
        yield (
            f"{len(probes.missed)} of {probes.asked} probes, which are sentences of the corpus, do not find their"
            f" document among the first {probes.depth} (recall {probes.recall:.2f}, and gate.probe_recall ="
            f" {settings.probe_recall:g}): {missed}"
        )


def lost_text(probes: ProbeScores, settings: GateSettings) -> Iterator[str]:
    """Sentences that readers see today are gone from documents that have not changed."""
    if len(probes.lost) > may_miss(probes.compared, settings.probe_recall):
        lost = ", ".join(probe.uri for probe in probes.lost[:NAMED])
        yield (
            f"{len(probes.lost)} of {probes.compared} sentences that readers see today are not in tonight's text of"
            f" their documents, which have not changed (gate.probe_recall = {settings.probe_recall:g}): {lost}"
        )


def below_floor(means: Mapping[str, float], floors: Mapping[str, float]) -> Iterator[str]:
    """A metric is below what it must be at least."""
    for metric, floor in floors.items():
        if means[metric] < floor:
            yield f"{metric} is {means[metric]:.4f}, and gate.floor asks for {floor:g} at least"


def worse_than_live(
    differences: list[Difference], tolerances: Mapping[str, float], losers: list[Loser], texts: Mapping[str, str]
) -> Iterator[str]:
    """A metric is worse than on the live generation by more than the tolerance; `texts` are those of the queries."""
    for difference in differences:
        allowed = tolerances[difference.metric]
        if difference.mean >= -allowed:
            continue
        how = f"95 % interval {difference.low:+.4f} to {difference.high:+.4f}" if difference.paired else "not paired"
        worst = "; ".join(f'"{shortened(texts.get(loser.query, loser.query))}"' for loser in losers[:NAMED])
        yield (
            f"{difference.metric} is {difference.candidate:.4f}, {-difference.mean:.4f} below the live generation's"
            f" {difference.live:.4f} ({how}), and gate.tolerance allows {allowed:g}"
            + (f"; the questions that lost most: {worst}" if worst else "")
        )
