"""Reranking: the order is that of the cross-encoder's scores, in `ask` and in the evaluation alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from nightloom import live
from nightloom.embedding import Embedder
from nightloom.errors import EmbedderError
from nightloom.index import open_index
from nightloom.milvus import Connection
from nightloom.reranking import Reranker
from nightloom.retrieval import Question
from tests.nights import ON_LITE, TEXTS, WITH_KEYWORDS, Home, live_name, night

PASSAGES = list(TEXTS.values())
QUESTION = "How does dough rise?"


def save_model(folder: Path, *, labels: int = 1, safe: bool = True) -> Path:
    """A cross-encoder of one layer with random weights."""
    folder.mkdir()
    words = sorted({word for text in (*PASSAGES, QUESTION) for word in text.lower().split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(words) + 5,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        num_labels=labels,
        initializer_range=0.3,
    )
    model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "reranker")


def expected(folder: Path, texts: list[str]) -> list[str]:
    scores = CrossEncoder(str(folder)).predict([(QUESTION, text) for text in texts])
    return [text for _, text in sorted(zip(scores, texts, strict=True), key=lambda pair: -pair[0])]


async def test_passages_come_in_the_order_of_their_scores_and_those_not_read_behind_them(model: Path) -> None:
    (order,) = await Reranker(str(model), 3).orders([QUESTION], [PASSAGES])
    assert [PASSAGES[at] for at, _ in order] == [*expected(model, PASSAGES[:3]), *PASSAGES[3:]]
    scores = [score for _, score in order]
    assert scores == sorted(scores, reverse=True)


async def test_a_batch_of_questions_is_reranked_as_each_alone(model: Path) -> None:
    reranker = Reranker(str(model), 4)
    many = await reranker.orders([QUESTION, "sea", "x"], [PASSAGES, PASSAGES[:2], []])
    alone = [(await reranker.orders([text], [some]))[0] for text, some in ((QUESTION, PASSAGES), ("sea", PASSAGES[:2]))]
    assert [[at for at, _ in order] for order in many] == [*([at for at, _ in order] for order in alone), []]


@WITH_KEYWORDS
@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("mode", ["dense", "hybrid"])
async def test_ask_and_the_evaluation_are_reranked_alike(
    home: Home, embedder: Embedder, model: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write({name: text[:90] for name, text in TEXTS.items()})
    home.configure(f'[retrieval]\nmode = "{mode}"\nreranker = "{model}"\ntop_k = 4\n[gate]\nprobes = 0\n')
    await night(home)
    found = await live.ask(home.corpus, None, QUESTION)
    everything = [text[:90].strip() for text in TEXTS.values()]
    assert [hit.text for hit in found] == expected(model, everything)[:4]
    corpus = home.corpus
    async with open_index(corpus.milvus, corpus.name, retrieval=corpus.retrieval) as index:
        question = Question(QUESTION, (await embedder.embed_queries([QUESTION]))[0])
        name = "fused" if mode == "hybrid" else "nearest"
        search, asked = getattr(Connection, name), set[str]()

        def recorded(*arguments: Any) -> Any:
            asked.update(arguments[-2])
            return search(*arguments)

        monkeypatch.setattr(Connection, name, recorded)
        (ranked,) = await index.contents.rank(await live_name(index), [question], 4)
    assert asked == {"id", "uri"}, "a search that gives texts, too, can be more than Milvus answers with"
    assert [uri for uri, _ in ranked] == [hit.uri for hit in found]
    assert [score for _, score in ranked] == pytest.approx([hit.score for hit in found], abs=1e-5)


@ON_LITE
@pytest.mark.usefixtures("prefect_api")
async def test_an_unknown_reranker_is_refused_before_anything_is_written(home: Home) -> None:
    home.configure('[retrieval]\nreranker = "nobody/no-such-model"\n')
    with pytest.raises(EmbedderError, match=r"retrieval\.reranker: nobody/no-such-model: unknown model"):
        await night(home)
    assert not any(file.suffix == ".db" for file in home.folder.iterdir())


@pytest.mark.parametrize(
    ("made", "says"), [({"labels": 3}, "gives 3 numbers for a pair"), ({"safe": False}, "are not safetensors")]
)
async def test_a_model_that_is_no_reranker_or_not_safe_is_refused(
    tmp_path: Path, made: dict[str, Any], says: str
) -> None:
    folder = save_model(tmp_path / "model", **made)
    with pytest.raises(EmbedderError, match=f"retrieval.reranker: .*{says}"):
        await Reranker(str(folder), 5).orders([QUESTION], [PASSAGES])
