"""What `nightloom ask` shows where a model answers: the answer as it comes, what it cites, and what it took."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console

from nightloom.answers import Answer, answer_question
from nightloom.corpus import AnswersSettings
from nightloom.errors import NightloomError
from nightloom.llm import Endpoint, open_endpoint
from nightloom.metering import Usage
from nightloom.report import plain
from nightloom.rows import Hit
from nightloom.screen import show_citations, show_hits, show_usage
from nightloom.tasks.secrets import find_secret


def answer_from(
    settings: AnswersSettings, question: str, hits: list[Hit], *, out: Console, err: Console, as_json: bool
) -> int:
    """Answer a question from passages; where that fails, show the passages and say why.

    Args:
        settings: The model and its limits.
        question: It.
        hits: Best first.
        out: For the answer.
        err: For what is wrong.
        as_json: Print one object instead, once the answer is whole.

    Returns:
        The exit code.
    """
    streamed: list[str] = []

    def show(piece: str) -> None:
        streamed.append(piece)
        out.print(plain(piece), end="", markup=False, highlight=False, emoji=False, soft_wrap=True)

    try:
        answer, usage = asyncio.run(_answer(settings, question, hits, None if as_json else show))
    except NightloomError as error:
        if streamed:
            out.print("\n")
        if as_json:
            _print(question, hits, {"error": str(error), "outcome": error.outcome})
        else:
            show_hits(out, hits)
        err.print(plain(str(error)), style="red", markup=False, highlight=False, emoji=False, soft_wrap=True)
        return error.exit_code
    if as_json:
        _print(question, hits, _as_data(answer, hits, usage), answer.cited)
    else:
        out.print("\n")
        show_citations(out, hits[: answer.given], answer.cited)
        for note in answer.notes:
            out.print(f"note: {plain(note)}", style="yellow", markup=False, highlight=False, emoji=False)
        show_usage(out, usage)
    return 0


async def _answer(
    settings: AnswersSettings, question: str, hits: list[Hit], show: Callable[[str], None] | None
) -> tuple[Answer, Usage]:
    async with open_answers(settings) as endpoint:
        return await answer_question(endpoint, question, hits, show), endpoint.usage


@asynccontextmanager
async def open_answers(settings: AnswersSettings) -> AsyncIterator[Endpoint]:
    """The model of a corpus, with its key from the environment or from its Secret block.

    Raises:
        InputError: There is no key, or no such block.
    """
    async with open_endpoint(settings, await find_secret(settings.secret)) as endpoint:
        yield endpoint


def _as_data(answer: Answer, hits: list[Hit], usage: Usage) -> dict[str, Any]:
    citations = [(number, hits[number - 1]) for number in answer.cited]
    return {
        "answer": answer.text,
        "in_corpus": answer.in_corpus,
        "citations": [
            {"number": number, "uri": hit.uri, "page": hit.page, "section": hit.section, "node": hit.node}
            for number, hit in citations
        ],
        "notes": list(answer.notes),
        "tokens": {"input": usage.input_tokens, "output": usage.output_tokens, "estimated": usage.estimated},
        "cost_usd": usage.cost_usd,
        "requests": usage.requests,
    }


def _print(question: str, hits: list[Hit], found: dict[str, Any], cited: tuple[int, ...] = ()) -> None:
    passages = [
        {"number": number, "cited": number in cited, **dataclasses.asdict(hit)} for number, hit in enumerate(hits, 1)
    ]
    print(json.dumps({"question": question, **found, "passages": passages}, ensure_ascii=False))  # noqa: T201
