"""Nodes: together the whole text, each within what the embedder reads."""

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer

from nightloom.corpus import EmbedderSettings, SplittingSettings
from nightloom.documents import Document, Place
from nightloom.embedding import Embedder
from nightloom.errors import DocumentError, EmbedderError
from nightloom.models import find_model
from nightloom.sentences import LONGEST_END, Refusing, finding_with, remembering, sentence_splitter
from nightloom.splitting import BYTES_PER_TOKEN, MAX_NODE_BYTES, Node, Splitter, sections
from nightloom.tokenizing import LONGEST_WORD, Words, tokenizer_in, tokenizer_of_encoding
from nightloom.vectors import Tokens
from tests.builders import MODEL, make_document

VERSION = "0" * 32
SIZES = st.sampled_from([(16, 0), (16, 6), (32, 8), (64, 30)])

PIECES = st.one_of(
    st.sampled_from(["word", "Sentence.", "Really?", "don't", "1,234.56", "e\u0301", "\ufffd", "\u200b", "naïve", "x"]),
    st.sampled_from([" ", "\n", "\n\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\x1f", " . "]),
    st.sampled_from(["漢字", "かな。", "한국어", "שלום", "ไทย", "😀", "👨‍👩‍👧‍👦", "🇩🇪", "\U0001d518"]),
    st.sampled_from([".", ",", ";", "?!", "。", "--", "[UNK]", "[SEP]", "<s>"]),
    st.builds(lambda text, times: text * times, st.text("ab.,漢😀 \n", min_size=1, max_size=3), st.integers(1, 200)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
TEXTS = st.lists(PIECES, min_size=1, max_size=12).map("".join).filter(str.strip)


def check_covered(text: str, nodes: list[Node]) -> None:
    """Fail unless the nodes, in order, hold every character of the text that is not white space."""
    whole, covered = "".join(text.split()), 0
    for node in nodes:
        piece = "".join(node.text.split())
        begins = whole.rfind(piece, 0, covered + len(piece))
        assert begins >= 0, f"node {node.position} leaves out {whole[covered : covered + 40]!r}"
        covered = max(covered, begins + len(piece))
    assert covered == len(whole), f"the end is missing: {whole[covered : covered + 40]!r}"


def check_fits(nodes: list[Node], embedder: Embedder, max_tokens: int) -> None:
    """Fail if a node is above a bound, blank, or not read whole."""
    prefix = embedder.settings.text_prefix
    for node in nodes:
        assert node.text.strip()
        assert len(node.text.encode()) <= min(MAX_NODE_BYTES, BYTES_PER_TOKEN * max_tokens)
        assert embedder.count_tokens(prefix + node.text) <= max_tokens
    for node in nodes:
        assert node.tokens is not None
        assert np.array_equal(node.tokens, embedder.tokens(prefix + node.text))


@settings(max_examples=80)
@given(text=TEXTS, size=SIZES)
@example(text="x" * 5_000, size=(16, 6))
@example(text="😀" * 3_000, size=(32, 8))
@example(text="漢字かな交じり文です。" * 200, size=(64, 30))
@example(text=",;.?!" * 60, size=(16, 0))
@example(text="Contents " + "." * 500 + " 12", size=(32, 8))
@example(text="aGVsbG8" * 900, size=(64, 30))
def test_the_nodes_cover_the_text_in_order_within_the_bounds(
    embedder: Embedder, text: str, size: tuple[int, int]
) -> None:
    limits = SplittingSettings(max_tokens=size[0], overlap_tokens=size[1])
    document = make_document(text)
    nodes = Splitter(limits, embedder).split(document, VERSION)
    check_covered(text, nodes)
    check_fits(nodes, embedder, limits.max_tokens)
    assert [node.id for node in nodes] == [f"{document.ref.id}-{position}" for position in range(len(nodes))]
    assert [node.position for node in nodes] == list(range(len(nodes)))
    assert {node.total for node in nodes} == {len(nodes)}
    assert {node.version for node in nodes} == {VERSION}
    assert Splitter(limits, embedder).split(document, VERSION) == nodes


PATHS = st.lists(st.sampled_from(["A", "B", "C"]), max_size=3).map(tuple)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """A text with headings, pages and wholes anywhere in it."""
    text = draw(TEXTS)
    offsets = st.integers(0, len(text))
    starts = sorted(draw(st.lists(offsets, max_size=5)))
    pages = st.none() | st.integers(1, 9)
    places = tuple(Place(start, draw(PATHS), draw(pages)) for start in starts)
    edges = sorted(draw(st.lists(offsets, max_size=6)))
    return replace(make_document(text), places=places, wholes=tuple(zip(edges[::2], edges[1::2], strict=False)))


@settings(max_examples=80)
@given(document=documents(), size=SIZES)
def test_headings_and_wholes_leave_no_character_out(
    embedder: Embedder, document: Document, size: tuple[int, int]
) -> None:
    limits = SplittingSettings(max_tokens=size[0], overlap_tokens=size[1])
    nodes = Splitter(limits, embedder).split(document, VERSION)
    check_covered(document.text, nodes)
    check_fits(nodes, embedder, limits.max_tokens)
    parts = sections(document)
    assert "".join(document.text[part.start : part.end] for part in parts) == document.text
    for node in nodes:
        assert document.text.startswith(node.text, node.place.start)
        (part,) = [part for part in parts if part.start <= node.place.start < part.end]
        assert node.place.start + len(node.text) <= part.end, "a node lies in one section"
        assert node.place.headings == part.headings


GUIDE = """Guide

# Install

Take the package. It is small.

# Use

## First steps

Call it once.

```
first()

second()
```

Then again.
"""


def guide() -> Document:
    """A document of three headings, of which one has only a subsection, with a block of code."""
    at = {mark: GUIDE.index(mark) for mark in ("# Install", "# Use", "## First")}
    places = (
        Place(at["# Install"], ("Install",)),
        Place(at["# Use"], ("Use",)),
        Place(at["## First"], ("Use", "First steps")),
    )
    code = (GUIDE.index("```"), GUIDE.rindex("```") + 4)
    return replace(make_document(GUIDE), places=places, wholes=(code,))


def test_nodes_begin_at_headings_and_keep_their_path(embedder: Embedder) -> None:
    nodes = Splitter(SplittingSettings(), embedder).split(guide(), VERSION)
    assert [(node.text.partition("\n")[0], node.place.headings) for node in nodes] == [
        ("Guide", ("Install",)),  # a line alone goes with what it is above
        ("# Use", ("Use", "First steps")),
    ]


def test_code_stays_whole_where_it_fits(embedder: Embedder) -> None:
    nodes = Splitter(SplittingSettings(max_tokens=24, overlap_tokens=0), embedder).split(guide(), VERSION)
    assert [node.text for node in nodes if "first()" in node.text] == [
        next(node.text for node in nodes if "second()" in node.text)
    ]
    assert len(nodes) > 2


def test_a_node_knows_the_page_that_it_begins_on(embedder: Embedder) -> None:
    first, second = "A page says one thing. " * 17, "Another page says another. " * 20
    document = replace(make_document(first + second), places=(Place(0, page=1), Place(len(first), page=2)))
    nodes = Splitter(SplittingSettings(max_tokens=64, overlap_tokens=0), embedder).split(document, VERSION)
    assert [node.place.page for node in nodes] == [1 if node.place.start < len(first) else 2 for node in nodes]
    assert {node.place.page for node in nodes} == {1, 2}
    assert any("one" in node.text and "Another" in node.text for node in nodes), "text flows from page to page"


def test_a_document_of_too_many_nodes_is_refused(embedder: Embedder) -> None:
    splitter = Splitter(SplittingSettings(max_tokens=16, overlap_tokens=0, max_nodes_per_document=3), embedder)
    with pytest.raises(DocumentError, match=r"splitting.max_nodes_per_document = 3"):
        splitter.split(make_document("One sentence of some words. " * 50), VERSION)


def test_a_short_text_is_one_node(embedder: Embedder) -> None:
    (node,) = Splitter(SplittingSettings(), embedder).split(make_document("  A few words. "), VERSION)
    assert (node.text.strip(), node.position, node.total) == ("A few words.", 0, 1)


def test_the_tutorials_essay_is_covered_and_read_whole(embedder: Embedder, shared_data: Path) -> None:
    essay = (shared_data / "tutorial" / "paul_graham_essay.txt").read_text(encoding="utf-8")
    nodes = Splitter(SplittingSettings(), embedder).split(make_document(essay), VERSION)
    check_covered(essay, nodes)
    check_fits(nodes, embedder, 256)
    assert 60 < len(nodes) < 120, "nodes are about as large as they may be"


def test_nodes_overlap_by_no_more_than_asked(embedder: Embedder) -> None:
    text = " ".join(f"Sentence number {number} says something of its own." for number in range(200))
    for overlap in (0, 32):
        nodes = Splitter(SplittingSettings(max_tokens=128, overlap_tokens=overlap), embedder).split(
            make_document(text), VERSION
        )
        repeated = [_overlap(before.text, after.text) for before, after in pairwise(nodes)]
        assert all(embedder.count_tokens(part) - 2 <= overlap for part in repeated)
        assert any(repeated) == (overlap > 0)


def _overlap(before: str, after: str) -> str:
    """The longest end of one text that the other begins with."""
    return next(after[:size] for size in range(len(after), -1, -1) if before.endswith(after[:size]))


@pytest.fixture
def shallow_stack(embedder: Embedder) -> Iterator[None]:
    """A stack with room for 300 more calls, once everything is imported."""
    Splitter(SplittingSettings(), embedder).split(make_document("A few words. " * 200), VERSION)
    usual, depth = sys.getrecursionlimit(), len(inspect.stack(context=0))
    sys.setrecursionlimit(depth + 300)
    yield
    sys.setrecursionlimit(usual)


@pytest.mark.parametrize("text", ["!" * 600, '{"a":[1,2],"b":"c."},' * 280], ids=["marks", "JSON"])
@pytest.mark.usefixtures("shallow_stack")
def test_the_stack_does_not_grow_with_the_text(embedder: Embedder, text: str) -> None:
    nodes = Splitter(SplittingSettings(max_tokens=32, overlap_tokens=8), embedder).split(make_document(text), VERSION)
    check_covered(text, nodes)


def test_nodes_do_not_depend_on_how_deep_the_caller_is(embedder: Embedder, request: pytest.FixtureRequest) -> None:
    document = make_document("!" * 600)
    splitter = Splitter(SplittingSettings(max_tokens=32, overlap_tokens=8), embedder)
    nodes = splitter.split(document, VERSION)
    request.getfixturevalue("shallow_stack")
    assert splitter.split(document, VERSION) == nodes


class Counting(Embedder):
    """An embedder that counts the characters that it is asked to measure."""

    measured = 0

    def tokens(self, text: str) -> Tokens:
        self.measured += len(text)
        return super().tokens(text)


@pytest.mark.parametrize(
    "text",
    [
        "A few words. ",
        "漢字かな交じり文です。",
        "x",
        "!",
        '{"a":[1,2],"b":"c."},',
    ],
    ids=["sentences", "Japanese", "one word", "marks", "JSON"],
)
def test_the_work_grows_with_the_text_and_not_with_its_square(text: str) -> None:
    measured = []
    for size in (250, 1_000):
        counting = Counting(EmbedderSettings(model=MODEL))
        Splitter(SplittingSettings(max_tokens=32, overlap_tokens=8), counting).split(
            make_document(text * (size // len(text))), VERSION
        )
        measured.append(counting.measured)
    assert measured[1] < 8 * measured[0], "four times the text"


def test_sentences_with_space_between_them_are_measured_once() -> None:
    counting = Counting(EmbedderSettings(model=MODEL))
    text = "A few words. " * 100
    nodes = Splitter(SplittingSettings(max_tokens=32, overlap_tokens=0), counting).split(make_document(text), VERSION)
    assert len(nodes) > 10
    assert counting.measured <= len(text)


def test_what_another_tokenizer_makes_of_a_whole_does_not_follow_from_its_parts(tmp_path: Path) -> None:
    made = json.loads((find_model(MODEL) / "tokenizer.json").read_text(encoding="utf-8"))
    made["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
    other = tokenizer_in(tmp_path, "another")
    bert = tokenizer_in(find_model(MODEL), "BERT's")
    texts = ("The tide ", "turns.")
    assert other.joined([other.tokens(text) for text in texts]) is None
    assert tokenizer_of_encoding("cl100k_base").joined([np.zeros(1, dtype=np.int64)]) is None
    joined = bert.joined([bert.tokens(text) for text in texts])
    assert joined is not None
    assert np.array_equal(joined, bert.tokens("".join(texts)))


def bert() -> tokenizers.Tokenizer:
    """The tokenizer of the packaged model, by itself."""
    found = tokenizers.Tokenizer.from_file(str(find_model(MODEL) / "tokenizer.json"))
    found.no_truncation()
    found.no_padding()
    return found


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@example(texts=["", " ", "[MASK] [SEP]a[CLS] [mask]", "a\u0301 \u0301 \u0301a", "x" * (LONGEST_WORD + 1)])
def test_words_that_are_remembered_have_the_tokens_of_the_whole_text(texts: list[str]) -> None:
    plain = bert()
    words = Words(plain)
    for text in [*texts, *texts]:  # the second time, they are looked up
        assert words.tokens(text).tolist() == plain.encode(text).ids


def test_words_have_their_tokens_however_few_are_kept(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightloom.tokenizing.MOST_WORDS", 50)
    essay = (shared_data / "tutorial" / "paul_graham_essay.txt").read_text(encoding="utf-8")
    plain = bert()
    words = Words(plain)
    for text in essay.splitlines() * 2:
        assert words.tokens(text).tolist() == plain.encode(text).ids


class CountingTokenizer:
    """A tokenizer that counts the texts that it is given."""

    def __init__(self) -> None:
        self.inner = bert()
        self.texts: list[str] = []

    def encode(self, text: str, **how: bool) -> tokenizers.Encoding:
        self.texts.append(text)
        self.meanwhile()
        return self.inner.encode(text, **how)

    def meanwhile(self) -> None:
        """Whatever another thread does."""


def test_a_word_is_tokenized_once_and_a_long_one_is_not_kept() -> None:
    counting = CountingTokenizer()
    words = Words(counting)
    long = "x" * (LONGEST_WORD + 1)
    for text in ("tide tide", "tide\ntide", "the tide", long, long):
        words.tokens(text)
    assert counting.texts == ["", "tide", "the", long, long]


def test_words_are_there_where_another_thread_begins_to_remember_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightloom.tokenizing.MOST_WORDS", 4)
    counting = CountingTokenizer()
    words = Words(counting)
    words.tokens("the tide")

    def meanwhile() -> None:
        monkeypatch.setattr(counting, "meanwhile", lambda: None)
        words.tokens("iron rusts here")

    monkeypatch.setattr(counting, "meanwhile", meanwhile)
    assert words.tokens("the moon").tolist() == bert().encode("the moon").ids


def test_a_tokenizer_with_a_token_that_takes_spaces_along_keeps_no_words(tmp_path: Path) -> None:
    made = json.loads((find_model(MODEL) / "tokenizer.json").read_text(encoding="utf-8"))
    assert tokenizer_in(find_model(MODEL), "BERT's").keeps_words
    for change in ({"lstrip": True}, {"rstrip": True}, {"content": "two words"}):
        changed = made | {"added_tokens": [*made["added_tokens"][:-1], made["added_tokens"][-1] | change]}
        (tmp_path / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
        assert not tokenizer_in(tmp_path, "another").keeps_words, change


# --- limits of the embedder


def test_more_tokens_than_the_embedder_reads_are_refused(embedder: Embedder) -> None:
    assert embedder.max_tokens == 256
    Splitter(SplittingSettings(max_tokens=256), embedder)
    with pytest.raises(EmbedderError, match=r"splitting\.max_tokens = 257 is above the 256 tokens"):
        Splitter(SplittingSettings(max_tokens=257), embedder)


def prefixed(prefix: str) -> Embedder:
    return Embedder(EmbedderSettings(model=MODEL, text_prefix=prefix))


def test_the_prefix_counts(shared_data: Path) -> None:
    embedder = prefixed("search document, in a few words of its own: ")
    essay = (shared_data / "tutorial" / "paul_graham_essay.txt").read_text(encoding="utf-8")[:20_000]
    nodes = Splitter(SplittingSettings(max_tokens=64, overlap_tokens=8), embedder).split(make_document(essay), VERSION)
    check_covered(essay, nodes)
    check_fits(nodes, embedder, 64)


@pytest.mark.parametrize("max_tokens", [16, 64, 256])
def test_what_the_corpus_file_allows_can_be_split(embedder: Embedder, max_tokens: int) -> None:
    limits = SplittingSettings(max_tokens=max_tokens, overlap_tokens=max_tokens // 2)
    assert Splitter(limits, embedder).split(make_document("A few words."), VERSION)


def test_a_prefix_that_leaves_no_room_is_refused_at_once() -> None:
    with pytest.raises(EmbedderError, match=r"embedder\.text_prefix takes \d+ of splitting\.max_tokens = 32"):
        Splitter(SplittingSettings(max_tokens=32, overlap_tokens=8), prefixed("word " * 40))


SENTENCES = """
import json, sys
from nightloom.sentences import sentence_splitter

finders = list(sys.meta_path)
sentences = sentence_splitter()("The moon pulls tides. Iron rusts.")
taken = sorted({name.partition(".")[0] for name in sys.modules} & {"scipy", "sklearn"})
assert [one for one in sys.meta_path if one in finders] == finders
import scipy.stats, sklearn.feature_extraction
print(json.dumps([sentences, taken]))
"""


def test_sentences_are_cut_without_what_nltk_takes_along() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", SENTENCES], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["The moon pulls tides. ", "Iron rusts."], []]


def test_an_end_of_a_sentence_is_decided_once_and_one_that_is_long_is_not_remembered() -> None:
    asked: list[str] = []

    def is_end(words: str) -> bool:
        asked.append(words)
        return words.endswith("The")

    decide = remembering(is_end)
    long = "x" * (LONGEST_END + 1)
    assert [decide(words) for words in ("tides. The", "e.g. the", "tides. The", "e.g. the", long, long)] == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]
    assert asked == ["tides. The", "e.g. the", long, long]


@given(text=TEXTS)
def test_sentences_are_those_of_llamaindex(text: str) -> None:
    assert sentence_splitter()(text) == split_by_sentence_tokenizer()(text)


def test_sentences_of_an_essay_are_those_of_llamaindex(shared_data: Path) -> None:
    essay = (shared_data / "tutorial" / "paul_graham_essay.txt").read_text(encoding="utf-8")
    ours = sentence_splitter()
    assert ours(essay) == ours(essay) == split_by_sentence_tokenizer()(essay)
    assert len(ours(essay)) > 500


def test_what_is_not_taken_along_is_refused_to_one_thread_alone() -> None:
    finder = Refusing()
    with pytest.raises(ModuleNotFoundError, match="is not imported for NLTK"):
        finder.find_spec("scipy.stats", None)
    assert finder.find_spec("numpy", None) is None
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(finder.find_spec, "scipy.stats", None).result() is None


def test_a_thread_that_imports_meanwhile_asks_every_finder() -> None:
    before = list(sys.meta_path)
    with finding_with(Refusing()):
        asked = iter(sys.meta_path)
        assert isinstance(next(asked), Refusing)
    assert list(asked) == before == sys.meta_path
