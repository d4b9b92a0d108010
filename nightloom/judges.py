"""Answers to golden queries, judged by a model: how true they are to the passages, the question and the reference.

What comes of it warns and never decides. Whatever the endpoint does, a night goes on.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from statistics import fmean

from llama_index.core.evaluation import (
    CorrectnessEvaluator,
    EvaluationResult,
    FaithfulnessEvaluator,
    RelevancyEvaluator,
)

from nightloom.answers import answer_question, neutral
from nightloom.concurrency import each
from nightloom.errors import CostLimit, EndpointRefused, EndpointUnavailable, NightloomError, NoAnswer
from nightloom.golden import Reference
from nightloom.llm import Endpoint
from nightloom.report import AnswerScores, JudgedAnswer
from nightloom.rows import Hit

SILENT_IN_A_ROW = 3
"""Queries over which an endpoint fails for now; then it is not asked again tonight."""
NAMED = 5
SHOWN_CHARACTERS = 500
CORRECT = 4.0
"""Least score of an answer that is relevant and right, by the evaluator's own scale."""
WORST, BEST = 1.0, 5.0

Search = Callable[[str], Awaitable[list[Hit]]]
"""The passages for a query, by its id, best first."""


async def judge_answers(endpoint: Endpoint, references: Mapping[str, Reference], search: Search) -> AnswerScores:
    """Have golden queries answered from their passages, and the answers judged by LlamaIndex's evaluators.

    An answer takes one request, judging it three. It ends before that at the limits of [answers], when the endpoint
    refuses, or when it is down; what failed is counted.

    Args:
        endpoint: Of the model that answers and judges.
        references: Question and reference answer by query id.
        search: Gives the passages.

    Returns:
        Means, counts, what it took, and each answer that wants a look.
    """
    judging = _Judging(endpoint, references, search)
    try:
        async with asyncio.timeout(endpoint.settings.max_seconds):
            await each(references, judging.judge, at_once=endpoint.settings.concurrency)
    except TimeoutError:
        judging.stopped = f"answers.max_seconds = {endpoint.settings.max_seconds:g} were over"
    return judging.scores()


class _Judging:
    """The judging of one night, as far as it is."""

    def __init__(self, endpoint: Endpoint, references: Mapping[str, Reference], search: Search) -> None:
        self.stopped = ""
        self._endpoint = endpoint
        self._references = references
        self._search = search
        self._judged: dict[str, JudgedAnswer] = {}
        self._silent = 0
        self._faithfulness = FaithfulnessEvaluator(llm=endpoint.llm)
        self._relevancy = RelevancyEvaluator(llm=endpoint.llm)
        self._correctness = CorrectnessEvaluator(llm=endpoint.llm, parser_function=_read_score)

    async def judge(self, query: str) -> None:
        """Answer and judge one query, unless it is no use to ask any more."""
        if self.stopped:
            return
        found = JudgedAnswer(query=query)
        try:
            await self._judge(found, self._references[query])
            self._silent = 0
        except CostLimit as error:
            self.stopped = str(error)
            return
        except EndpointRefused as error:
            found.problem = self.stopped = str(error)
        except EndpointUnavailable as error:
            found.problem = str(error)
            self._silent += 1
            if self._silent == SILENT_IN_A_ROW:
                self.stopped = f"the endpoint failed {SILENT_IN_A_ROW} times in a row: {error}"
        except NightloomError as error:
            found.problem = str(error)
        except Exception as error:  # noqa: BLE001  evaluators fail in their own ways, and one query ends no night
            found.problem = f"{type(error).__name__}: {error}"
        self._judged[query] = found

    async def _judge(self, found: JudgedAnswer, reference: Reference) -> None:
        hits = await self._search(found.query)
        answer = await answer_question(self._endpoint, reference.question, hits)
        found.answer = answer.text[:SHOWN_CHARACTERS]
        found.in_corpus = answer.in_corpus
        if not answer.in_corpus:  # it claims nothing, and answers nothing: no judge is needed for that
            found.faithfulness, found.relevancy, found.correctness = 1.0, 0.0, WORST
            return
        given = {
            "query": neutral(reference.question),
            "response": neutral(answer.text),
            "contexts": [neutral(hit.text) for hit in hits[: answer.given]],
        }
        found.faithfulness = _yes_or_no(await self._faithfulness.aevaluate(**given))
        found.relevancy = _yes_or_no(await self._relevancy.aevaluate(**given))
        result = await self._correctness.aevaluate(**given, reference=reference.answer)
        if result.score is None:
            raise NoAnswer(f"the judge gave no score from 1 to 5: {result.feedback!r}")
        found.correctness = result.score

    def scores(self) -> AnswerScores:
        """What has come of it."""
        judged = list(self._judged.values())
        answered = [one for one in judged if not one.problem]
        usage = self._endpoint.usage
        return AnswerScores(
            model=self._endpoint.settings.model,
            wanted=len(self._references),
            answered=len(answered),
            not_in_corpus=sum(not one.in_corpus for one in answered),
            failed=len(judged) - len(answered),
            not_asked=len(self._references) - len(judged),
            stopped=self.stopped or None,
            faithfulness=_mean([one.faithfulness for one in answered]),
            relevancy=_mean([one.relevancy for one in answered]),
            correctness=_mean([one.correctness for one in answered]),
            requests=usage.requests,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            estimated=usage.estimated,
            cost_usd=usage.cost_usd,
            doubtful=sorted((one for one in judged if _is_doubtful(one)), key=lambda one: one.query),
        )


def warnings_of(scores: AnswerScores) -> list[str]:
    """What a person should look at, in sentences that name the first few queries."""
    doubtful = scores.doubtful
    answered = [one for one in doubtful if not one.problem]
    found = [one for one in answered if one.in_corpus]
    wrong = [one for one in found if (one.correctness or BEST) < CORRECT]
    groups = (
        ([one for one in doubtful if one.problem], scores.wanted, "were not answered or not judged"),
        ([one for one in answered if not one.in_corpus], scores.answered, "were not found in the passages"),
        ([one for one in found if one.faithfulness == 0], scores.answered, "say what their passages do not"),
        ([one for one in found if one.relevancy == 0], scores.answered, "are not about the question"),
        (wrong, scores.answered, "are not what the reference says"),
    )
    says = [f"answers: {len(some)} of {of} {what}: {_named(some)}" for some, of, what in groups if some]
    if scores.stopped:
        says.append(f"answers: {scores.not_asked} of {scores.wanted} were not asked for: {scores.stopped}")
    return says


def _named(some: list[JudgedAnswer]) -> str:
    names = [f"{one.query} ({one.problem})" if one.problem else one.query for one in some[:NAMED]]
    return ", ".join(names) + (f" and {len(some) - NAMED} more" if len(some) > NAMED else "")


def _is_doubtful(one: JudgedAnswer) -> bool:
    return bool(one.problem) or one.faithfulness == 0 or one.relevancy == 0 or (one.correctness or BEST) < CORRECT


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _yes_or_no(result: EvaluationResult) -> float:
    """The verdict; LlamaIndex takes whatever has no YES in it for a NO."""
    if not re.search(r"\b(?:yes|no)\b", result.feedback or "", re.IGNORECASE):
        raise NoAnswer(f"the judge said neither YES nor NO: {(result.feedback or '')[:SHOWN_CHARACTERS]!r}")
    return float(result.score)


def _read_score(reply: str) -> tuple[float | None, str]:
    """The score in the first line of a judge's reply, and the reply; LlamaIndex's own reader wants two lines."""
    first = reply.strip().split("\n", 1)[0]
    number = re.search(r"(?<![\d.])\d(?:\.\d+)?(?!\d)", first)
    score = float(number[0]) if number else None
    return (score if score is not None and WORST <= score <= BEST else None), reply[:SHOWN_CHARACTERS]
