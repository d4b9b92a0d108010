"""The corpus file: what it takes, what it refuses, and which value wins."""

import itertools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nightloom.corpus import (
    ALIAS_LENGTH,
    AnswersSettings,
    Corpus,
    GateSettings,
    IndexSettings,
    MilvusSettings,
    Section,
    ShardSettings,
    SourceSettings,
    SplittingSettings,
)
from nightloom.corpus_file import load_corpus
from nightloom.errors import CorpusFileError
from nightloom.secrets import from_environment
from tests.builders import ROOT

MINIMAL = 'name = "docs"\n[[sources]]\npath = "pages"\n'
ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PASSWORD = "correct-horse"


def load(
    folder: Path, text: str = MINIMAL, environ: Mapping[str, str] | None = None, sections: dict[str, Any] | None = None
) -> Corpus:
    file = folder / "corpus.toml"
    file.write_text(text, encoding="utf-8")
    return load_corpus(file, sections, environ or {})


def refusal(folder: Path, text: str = MINIMAL, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(CorpusFileError) as refused:
        load(folder, text, environ)
    return str(refused.value)


@pytest.mark.parametrize("file", sorted((ROOT / "corpora").glob("*.toml")), ids=lambda file: file.name)
def test_every_corpus_file_of_the_repository_loads(file: Path) -> None:
    assert ALIAS.fullmatch(load_corpus(file, None, {}).name)


def test_a_name_and_a_source_are_enough(tmp_path: Path) -> None:
    corpus = load(tmp_path)
    assert corpus.splitting == SplittingSettings(max_tokens=256, overlap_tokens=32)
    assert corpus.embedder.model == "BAAI/bge-base-en-v1.5"
    assert (corpus.embedder.query_prefix, corpus.embedder.text_prefix, corpus.embedder.precision) == ("", "", "auto")
    assert corpus.milvus == MilvusSettings(uri=str(tmp_path / "data" / "nightloom.db"), metric="COSINE")
    assert corpus.evaluation is None
    assert corpus.gate == GateSettings(max_removed=0.2, max_quarantined=0.1)
    assert corpus.index == IndexSettings(update="generation", keep=2)
    assert corpus.shards == ShardSettings(documents=512, size_bytes=512_000, in_flight=3)


def test_what_the_template_calls_a_default_is_one() -> None:
    template = (ROOT / "corpora" / "template.toml").read_text(encoding="utf-8")
    commented = "\n".join(
        re.sub(r"^# (?=\[(index|retrieval|evaluation|answers|gate|shards|retry)\]|[a-z_]+ = )", "", line)
        for line in template.splitlines()
        if not re.match(
            r"# (\[\[sources|(name|url|urls|jsonl|include|exclude|revision|token_block|ca_file|folder|split)\b)"
            r"|# (floor|reranker)\b"
            r"|# (batch_tokens|requests_per_minute = 3000|tokens_per_minute|tokenizer|dimensions|max_tokens = 512)\b"
            r"|# (api_key_block = \"embedder|database\b)",
            line,
        )
    )
    examples = r"^(header_env|metadata_fields|delimiter|options|options_env|sitemap|csv|parquet|store|git) = .*"
    commented = re.sub(examples, "", commented, flags=re.MULTILINE)
    assert "include" not in tomllib.loads(template)["sources"][0], "a template that is filled in takes every file"
    written = tomllib.loads(commented)
    assert {"splitting", "milvus", "index", "evaluation", "gate", "shards", "reports"} <= written.keys()
    defaults = load_corpus(None, {"name": "docs", "sources": [{"path": "docs"}]}, {})
    for section in ("splitting", "embedder", "index", "retrieval", "gate", "shards", "retry"):
        default = getattr(defaults, section).model_dump()
        assert {key: default[key] for key in written[section]} == written[section]
    assert written["milvus"] | {"uri": ""} == {
        "uri": "",
        "metric": "COSINE",
        "transfer": "auto",
        "timeout_seconds": 60,
    }
    assert defaults.reports == Path.cwd() / written["reports"]
    complete = load_corpus(None, {"name": "docs", "sources": [{"path": "d"}], "evaluation": written["evaluation"]}, {})
    choices = {"model", "api_key_block", "max_cost_usd", "requests_per_minute"}
    choices |= {"usd_per_million_input_tokens", "usd_per_million_output_tokens"}
    answers = AnswersSettings(model="any").model_dump()
    assert written["answers"].keys() == answers.keys()
    assert {key: value for key, value in written["answers"].items() if key not in choices} == {
        key: value for key, value in answers.items() if key not in choices
    }
    bare = {"queries": written["evaluation"]["queries"], "qrels": written["evaluation"]["qrels"]}
    assert complete == load_corpus(None, {"name": "docs", "sources": [{"path": "d"}], "evaluation": bare}, {})


@pytest.mark.parametrize(
    ("section", "key", "variable"),
    [
        ("milvus", "token", "NIGHTLOOM_MILVUS_TOKEN"),
        ("embedder", "api_key", "NIGHTLOOM_EMBEDDER_KEY"),
        ("answers", "api_key", "NIGHTLOOM_ANSWERS_KEY"),
    ],
)
def test_a_secret_in_the_file_is_told_where_it_belongs(section: str, key: str, variable: str) -> None:
    settings = {"name": "docs", "sources": [{"path": "d"}], section: {key: "root:Milvus"}}
    with pytest.raises(
        CorpusFileError, match=rf"{section}\.{key}: secrets .* {variable}.* {section}\.{key}_block"
    ) as no:
        load_corpus(None, settings, {})
    assert "root:Milvus" not in str(no.value)


def test_the_template_explains_every_key_of_a_source_and_its_examples_are_right() -> None:
    template = (ROOT / "corpora" / "template.toml").read_text(encoding="utf-8")
    part = template[template.index("[[sources]]\n") : template.index("# Reading: ")]
    plain = re.sub(r"^# (?=\[\[|[a-z_]+ = )", "", part, flags=re.MULTILINE)
    sources = tomllib.loads(plain)["sources"]
    assert {key for source in sources for key in source} == SourceSettings.model_fields.keys()
    assert [kind for source in sources for kind in KINDS if kind in source] == [
        "path",
        "url",
        "urls",
        "sitemap",
        "jsonl",
        "csv",
        "parquet",
        "store",
        "git",
    ]
    load_corpus(None, {"name": "docs", "sources": sources}, {})
    examples = {"name", "include", "exclude", "header_env", "metadata_fields", "delimiter", "options", "options_env"}
    for source in sources:
        for key in source.keys() - examples - KINDS.keys():
            assert source[key] == ([] if key == "tags" else SourceSettings.model_fields[key].default), key


def test_paths_are_relative_to_the_file_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    corpus = load(
        tmp_path,
        'name = "docs"\nreports = "../out"\n[[sources]]\npath = "./pages/"\n[[sources]]\njsonl = "rows.jsonl"\n'
        '[embedder]\nmodel = "models/mine"\n[milvus]\nuri = "index.db"\n'
        '[evaluation]\nqueries = "q/queries.jsonl"\nqrels = "/abs/qrels.tsv"\n',
    )
    assert [source.path or source.jsonl for source in corpus.sources] == [tmp_path / "pages", tmp_path / "rows.jsonl"]
    assert [source.name for source in corpus.sources] == ["pages", "rows.jsonl"]
    assert corpus.reports == tmp_path.parent / "out"
    assert corpus.embedder.model == str(tmp_path / "models" / "mine")
    assert corpus.milvus.uri == str(tmp_path / "index.db")
    assert corpus.evaluation is not None
    assert corpus.evaluation.queries == tmp_path / "q" / "queries.jsonl"
    assert corpus.evaluation.qrels == Path("/abs/qrels.tsv")


def test_a_hub_name_and_an_address_are_no_paths(tmp_path: Path) -> None:
    corpus = load(tmp_path, f'{MINIMAL}[embedder]\nmodel = "org/model"\n[milvus]\nuri = "http://milvus:19530"\n')
    assert corpus.embedder.model == "org/model"
    assert corpus.milvus.uri == "http://milvus:19530"


def test_a_loaded_corpus_loads_again_as_itself(tmp_path: Path) -> None:
    corpus = load(tmp_path, f'{MINIMAL}exclude = ["old/**"]\n[splitting]\nmax_tokens = 99\n[index]\nkeep = 0\n')
    sections = {key: getattr(corpus, key) for key in type(corpus).model_fields}
    assert load_corpus(None, sections, {}) == corpus
    plain = {key: value for key, value in corpus.model_dump().items() if value is not None}
    assert load_corpus(None, plain, {}) == corpus


def test_a_corpus_cannot_be_changed(tmp_path: Path) -> None:
    corpus = load(tmp_path)
    with pytest.raises(ValidationError):
        corpus.splitting.max_tokens = 512  # type: ignore[misc]  # what the test is about


# --- which value wins


def test_the_environment_reaches_nested_keys_and_lists(tmp_path: Path) -> None:
    environ = {
        "NIGHTLOOM_NAME": "other",
        "NIGHTLOOM_SPLITTING__MAX_TOKENS": "128",
        "NIGHTLOOM_SOURCES__0__PATH": "/srv/docs",
        "NIGHTLOOM_SOURCES__0__INCLUDE": '["*.md", "*.txt"]',
        "NIGHTLOOM_GATE__MAX_REMOVED": "0.5",
        "NIGHTLOOM_MILVUS__URI": "https://milvus:19530",
        "UNRELATED": "x",
    }
    corpus = load(tmp_path, environ=environ)
    assert (corpus.name, corpus.splitting.max_tokens, corpus.gate.max_removed) == ("other", 128, 0.5)
    assert corpus.sources[0].path == Path("/srv/docs")
    assert corpus.sources[0].include == ("*.md", "*.txt")
    assert corpus.milvus.uri == "https://milvus:19530"


@pytest.mark.parametrize("key", Corpus.model_fields)
def test_the_environment_reaches_every_key_of_the_file(tmp_path: Path, key: str) -> None:
    if key == "reports":
        assert load(tmp_path, environ={"NIGHTLOOM_REPORTS": "elsewhere"}).reports.name == "elsewhere"
        return
    assert refusal(tmp_path, environ={f"NIGHTLOOM_{key.upper()}": "no such value"}).startswith(f"{tmp_path}")


def test_the_environment_gives_lists_and_tables_as_json(tmp_path: Path) -> None:
    environ = {
        "NIGHTLOOM_SOURCES": '[{"path": "a"}, {"jsonl": "b.jsonl", "id_field": "key"}]',
        "NIGHTLOOM_SOURCES__1__ID_FIELD": "number",
        "NIGHTLOOM_SHARDS": '{"documents": 3}',
    }
    corpus = load(tmp_path, environ=environ)
    assert [source.path or source.jsonl for source in corpus.sources] == [tmp_path / "a", tmp_path / "b.jsonl"]
    assert corpus.sources[1].id_field == "number"
    assert corpus.shards.documents == 3


def test_the_file_yields_to_the_environment_and_both_to_the_flow(tmp_path: Path) -> None:
    text = f"{MINIMAL}[splitting]\nmax_tokens = 64\noverlap_tokens = 8\n"
    environ = {"NIGHTLOOM_SPLITTING__MAX_TOKENS": "100"}
    assert load(tmp_path, text).splitting == SplittingSettings(max_tokens=64, overlap_tokens=8)
    assert load(tmp_path, text, environ).splitting == SplittingSettings(max_tokens=100, overlap_tokens=8)
    changes = {"max_tokens": 200, "overlap_tokens": None}
    found = load(tmp_path, text, environ, {"splitting": changes, "gate": None})
    assert found.splitting == SplittingSettings(max_tokens=200, overlap_tokens=8), "a key that is left out is lost"
    assert found.gate == load(tmp_path, text).gate, "None counts as not given"


def test_sources_replace_the_whole_list(tmp_path: Path) -> None:
    sections = {"sources": [SourceSettings(jsonl=Path("rows.jsonl"))]}
    (source,) = load(tmp_path, f'{MINIMAL}include = ["*.md"]\n', sections=sections).sources
    assert (source.jsonl, source.path, source.include) == (tmp_path / "rows.jsonl", None, ("**/*",))


NO_SECTIONS = {"format", "name", "sources", "reports", "reports_keep_days"}
SECTIONS = {name: info for name, info in Corpus.model_fields.items() if name not in NO_SECTIONS}


def section_kinds(section: str) -> list[type[Any]]:
    kind = SECTIONS[section].annotation
    return [one for one in get_args(kind) or (kind,) if isinstance(one, type)]


@pytest.mark.parametrize("section", SECTIONS)
def test_an_opened_section_with_nothing_in_it_changes_nothing(tmp_path: Path, section: str) -> None:
    (settings,) = [kind for kind in section_kinds(section) if issubclass(kind, Section)]
    for empty in ({}, dict.fromkeys(settings.model_fields)):
        assert load(tmp_path, sections={section: empty}) == load(tmp_path)


def test_part_of_an_evaluation_that_the_file_has_not_is_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(CorpusFileError) as refused:
        load(tmp_path, sections={"evaluation": {"queries": "queries.jsonl"}, "gate": {"max_removed": 1}})
    says = str(refused.value)
    assert says.startswith(f"{tmp_path / 'corpus.toml'} with the run's parameters (evaluation, gate): ")
    assert says.endswith("evaluation: give queries and qrels, or the folder of a BEIR collection; qrels is missing")
    whole = f'{MINIMAL}[evaluation]\nqueries = "q.jsonl"\nqrels = "r.tsv"\n'
    found = load(tmp_path, whole, sections={"evaluation": {"concurrency": 2}}).evaluation
    assert found is not None
    assert (found.queries, found.concurrency) == (tmp_path / "q.jsonl", 2)


def test_changes_that_do_not_fit_the_file_are_refused(tmp_path: Path) -> None:
    for text, changes, says in (
        (MINIMAL, {"max_tokens": 48}, "splitting: overlap_tokens = 32 is more than half of max_tokens = 48"),
        (f"splitting = 3\n{MINIMAL}", {"max_tokens": 48}, "splitting: "),
    ):
        with pytest.raises(CorpusFileError, match=says):
            load(tmp_path, text, sections={"splitting": changes})


@given(file=st.integers(16, 500), environment=st.none() | st.integers(16, 500), flow=st.none() | st.integers(16, 500))
def test_the_last_one_given_wins(
    tmp_path_factory: pytest.TempPathFactory, file: int, environment: int | None, flow: int | None
) -> None:
    text = f"{MINIMAL}[splitting]\noverlap_tokens = 0\nmax_tokens = {file}\n"
    environ = {} if environment is None else {"NIGHTLOOM_SPLITTING__MAX_TOKENS": str(environment)}
    sections = {} if flow is None else {"splitting": {"max_tokens": flow, "overlap_tokens": 0}}
    corpus = load(tmp_path_factory.getbasetemp(), text, environ, sections)
    assert corpus.splitting.max_tokens == [value for value in (file, environment, flow) if value is not None][-1]


# --- what is refused


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        (f"sourcs = 1\n{MINIMAL}", "sourcs", "sources"),
        (f"{MINIMAL}[splitting]\nmax_token = 64\n", "splitting.max_token", "max_tokens"),
        (f'{MINIMAL}incldue = ["*.md"]\n', "sources.1.incldue", "include"),
        (f'{MINIMAL}[milvus]\nurl = "x.db"\nmetrik = "IP"\n', "milvus.metrik", "metric"),
        (f"{MINIMAL}[gate]\nmax_remove = 1\n", "gate.max_remove", "max_removed"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path: Path, text: str, key: str, meant: str) -> None:
    says = refusal(tmp_path, text)
    assert str(tmp_path / "corpus.toml") in says
    assert f"{key}: unknown key; did you mean {meant!r}?" in says


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f'{MINIMAL}[splitting]\nmax_tokens = "many"\n', "splitting.max_tokens"),
        (f"{MINIMAL}[splitting]\nmax_tokens = 8\noverlap_tokens = 0\n", "splitting.max_tokens"),
        (f"{MINIMAL}[splitting]\nmax_tokens = 32\noverlap_tokens = 17\n", "splitting"),
        (f'{MINIMAL}[milvus]\nmetric = "HAMMING"\n', "milvus.metric"),
        (f'{MINIMAL}[milvus]\nuri = "localhost:19530"\n', "milvus.uri"),
        (f"{MINIMAL}[milvus]\ntimeout_seconds = 0\n", "milvus.timeout_seconds"),
        (f"{MINIMAL}[gate]\nmax_removed = 2\n", "gate.max_removed"),
        (f"{MINIMAL}[gate]\nmax_removed = nan\n", "gate.max_removed"),
        (f"{MINIMAL}[shards]\nin_flight = 0\n", "shards.in_flight"),
        (f'{MINIMAL}[evaluation]\nqueries = "q.jsonl"\n', "evaluation"),
        (f'{MINIMAL}[evaluation]\nqueries = "q.jsonl"\nqrels = "r.tsv"\nsplit = "dev"\n', "evaluation"),
        (f'{MINIMAL}[evaluation]\nfolder = "beir"\nsplit = "../dev"\n', "evaluation.split"),
        (f'{MINIMAL}[evaluation]\nqueries = "q.jsonl"\nqrels = "r.tsv"\nmetrics = []\n', "evaluation.metrics"),
        ('name = "docs"\nsources = []\n', "sources"),
        ('name = "docs"\n[sources]\npath = "pages"\n', "sources"),
        ('name = "docs"\n[[sources]]\nurl = "ftp://host/a.txt"\n', "sources.1.url"),
        ('name = "docs"\n[[sources]]\nurls = ["https://host/a", "file:///a"]\n', "sources.1.urls"),
        ('[[sources]]\npath = "pages"\n', "name"),
        (f"name = 3\n{MINIMAL.partition(chr(10))[2]}", "name"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(tmp_path: Path, text: str, key: str) -> None:
    says = refusal(tmp_path, text)
    assert says.startswith(f"{tmp_path / 'corpus.toml'}: {key}: ")


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    says = refusal(tmp_path, f"{MINIMAL}[index]\nkeep = -1\n[gate]\nmax_removed = 7\n[shards]\ndocument = 1\n")
    assert {"index.keep", "gate.max_removed", "shards.document"} <= set(re.findall(r"[a-z]+\.[a-z_]+", says))


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfen\x00", b'name = "docs"\nname = "docs"\n'])
def test_what_is_no_toml_is_refused_with_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(CorpusFileError, match=re.escape(str(file))):
        load_corpus(file, None, {})


def test_a_missing_file_points_to_init(tmp_path: Path) -> None:
    with pytest.raises(CorpusFileError, match=r"nowhere\.toml.*`nightloom init`"):
        load_corpus(tmp_path / "nowhere.toml", None, {})


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("NIGHTLOOM_SPLITING__MAX_TOKENS", "did you mean 'splitting'?"),
        ("NIGHTLOOM_SORCES", "did you mean 'sources'?"),
        ("NIGHTLOOM_", "no key"),
        ("NIGHTLOOM_TOKEN", "no key 'token'"),
        ("NIGHTLOOM_SOURCES__7__PATH", "no position in a list of 1"),
        ("NIGHTLOOM_SOURCES__FIRST__PATH", "no position in a list of 1"),
    ],
)
def test_an_unknown_variable_is_refused_by_name(tmp_path: Path, variable: str, says: str) -> None:
    message = refusal(tmp_path, environ={variable: "1"})
    assert variable in message
    assert says in message


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        (MINIMAL, {"NIGHTLOOM_SPLITTING__MAX_TOKENS": "many"}),
        (MINIMAL, {"NIGHTLOOM_SPLITTING": "64"}),
        (MINIMAL, {"NIGHTLOOM_SOURCES": '[{"path": ]'}),
        (MINIMAL, {"NIGHTLOOM_NAME__0": "docs"}),
        ('name = "docs"\n', {"NIGHTLOOM_SOURCES__0__PATH": "pages"}),
        ('name = "docs"\nsources = ["pages"]\n', {"NIGHTLOOM_SOURCES__0__PATH": "pages"}),
        ('name = "docs"\nsources = ["pages"]\n', {"NIGHTLOOM_SOURCES__0__PATH__X": "pages"}),
        (MINIMAL, {"NIGHTLOOM_SOURCES__²__PATH": "pages"}),
    ],
)
def test_a_variable_that_fits_nowhere_is_a_mistake_in_words(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    assert re.match(r"(environment|.*corpus\.toml):", refusal(tmp_path, text, environ))


KINDS = {
    "path": "pages",
    "url": "http://h/a",
    "urls": ["http://h/b"],
    "sitemap": "https://h/sitemap.xml",
    "jsonl": "rows.jsonl",
    "csv": "rows.csv",
    "parquet": "rows.parquet",
    "store": "s3://bucket/docs",
    "git": "https://h/docs.git",
}


@pytest.mark.parametrize(
    "kinds", [kinds for count in range(3) for kinds in itertools.combinations(KINDS, count)], ids="+".join
)
def test_a_source_is_of_exactly_one_kind(kinds: tuple[str, ...]) -> None:
    sections = {"name": "docs", "sources": [{kind: KINDS[kind] for kind in kinds}]}
    if len(kinds) == 1:
        assert getattr(load_corpus(None, sections, {}).sources[0], kinds[0])
        return
    with pytest.raises(CorpusFileError, match=r"give exactly one of path, url, .*, store and git;") as refused:
        load_corpus(None, sections, {})
    assert " and ".join(kinds) in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("url", "include", ["*.md"]),
        ("jsonl", "exclude", ["*.md"]),
        ("store", "gitignore", True),
        ("path", "header_env", {"Authorization": "TOKEN"}),
        ("path", "id_field", "key"),
        ("jsonl", "delimiter", ";"),
        ("git", "options", {"anon": True}),
        ("store", "ref", "main"),
        ("store", "allow_private", True),
    ],
)
def test_a_key_of_another_kind_of_source_is_refused_by_name(kind: str, key: str, value: Any) -> None:
    with pytest.raises(CorpusFileError, match=f"sources.1: {key} is for .*, not for {kind}; remove it"):
        load_corpus(None, {"name": "docs", "sources": [{kind: KINDS[kind], key: value}]}, {})


@pytest.mark.parametrize(
    "source",
    [
        {"url": "https://h/a", "header_env": {"Authorization": f"Bearer {PASSWORD}"}},
        {"store": "s3://b/p", "options": {"secret": PASSWORD}},
        {"store": "s3://b/p", "options": {"client_kwargs": {"aws_secret_access_key": PASSWORD}}},
        {"store": "s3://b/p", "options": f"secret={PASSWORD}"},
        {"store": "s3://b/p", "options_env": {"secret": f"{PASSWORD}"}},
        {"store": f"s3://key:{PASSWORD}@b/p"},
        {"git": f"https://user:{PASSWORD}@h/docs.git"},
        {"git": f"https://{PASSWORD}@h/docs.git"},
        {"sitemap": f"https://user:{PASSWORD}@h/sitemap.xml"},
    ],
)
def test_a_secret_in_a_source_is_refused_and_never_repeated(source: dict[str, Any]) -> None:
    with pytest.raises(CorpusFileError, match=r"sources\.1") as refused:
        load_corpus(None, {"name": "docs", "sources": [source]}, {})
    assert PASSWORD not in str(refused.value)


def test_a_secret_in_a_variable_that_would_be_a_key_is_refused_with_the_cure() -> None:
    source = {"url": "https://h/a", "header_env": {"Authorization": "NIGHTLOOM_TOKEN"}}
    with pytest.raises(CorpusFileError, match=r"NIGHTLOOM_TOKEN: .* name it otherwise"):
        load_corpus(None, {"name": "docs", "sources": [source]}, {})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"csv": "data/rows.csv.gz"}, "rows.csv.gz"),
        ({"parquet": "rows.parquet"}, "rows.parquet"),
        ({"git": "repos/docs.git"}, "docs"),
        ({"git": "https://host/team/docs.git/"}, "docs"),
        ({"git": "git@host:docs.git"}, "docs"),
        ({"git": "ssh://git@host:22/docs"}, "docs"),
        ({"store": "s3://bucket/docs"}, None),
        ({"sitemap": "https://h/sitemap.xml"}, None),
        ({"git": "repos/docs.git", "name": "handbook"}, "handbook"),
    ],
)
def test_a_source_has_a_name_that_is_the_same_on_every_machine(
    tmp_path: Path, source: dict[str, Any], name: str | None
) -> None:
    file = tmp_path / "corpus.toml"
    file.write_text(MINIMAL)
    (loaded,) = load_corpus(file, {"sources": [source]}, {}).sources
    assert loaded.name == name
    if source.get("git") == "repos/docs.git":
        assert loaded.git == str(tmp_path / "repos" / "docs.git")


def test_a_source_of_no_urls_is_refused(tmp_path: Path) -> None:
    assert "sources.1" in refusal(tmp_path, 'name = "docs"\n[[sources]]\nurls = []\n')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"splitting = 3\n{MINIMAL}", "splitting: a table: write [splitting], and its keys below; found 3"),
        ('name = "docs"\n[sources]\npath = "p"\n', "sources: a list of tables: write [[sources]], with two brackets"),
        (f'{MINIMAL}[splitting]\nmax_tokens = "{"x" * 500}"\n', "integer; found 'xxx"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_how_to_write_it(tmp_path: Path, text: str, says: str) -> None:
    message = refusal(tmp_path, text)
    assert says in message
    assert len(message) < len(str(tmp_path)) + 300


def test_the_same_url_twice_in_a_source_is_refused(tmp_path: Path) -> None:
    assert "http://h/a" in refusal(tmp_path, 'name = "docs"\n[[sources]]\nurls = ["http://h/a", "http://h/a"]\n')


def with_name(name: str) -> Corpus:
    return load_corpus(None, {"name": name, "sources": [{"path": "pages"}]}, {})


@given(st.text(max_size=20).filter(lambda name: not ALIAS.fullmatch(name)))
def test_a_name_that_milvus_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(CorpusFileError, match="name: "):
        with_name(name)


@given(st.from_regex(ALIAS, fullmatch=True).filter(lambda name: len(name) <= ALIAS_LENGTH))
def test_any_other_name_is_taken(name: str) -> None:
    assert with_name(name).name == name


@pytest.mark.parametrize("name", ["docs\n", "9docs", "my-docs", "größe", "", "a b", "x" * (ALIAS_LENGTH + 1)])
def test_names_that_look_right_and_are_not(name: str) -> None:
    with pytest.raises(CorpusFileError, match="name: "):
        with_name(name)


# --- secrets


def test_the_token_is_in_no_model_and_in_no_text(tmp_path: Path) -> None:
    environ = {"NIGHTLOOM_MILVUS_TOKEN": f"root:{PASSWORD}"}
    corpus = load(tmp_path, environ=environ)
    assert PASSWORD not in f"{corpus!r} {corpus} {corpus.model_dump_json()}"
    place = corpus.milvus.secret
    token = from_environment(place, environ)
    assert token is not None
    assert PASSWORD not in f"{token!r} {token}"
    assert token.get_secret_value() == f"root:{PASSWORD}"
    assert from_environment(place, {}) is None
    assert from_environment(place, {"NIGHTLOOM_MILVUS_TOKEN": ""}) is None


def test_a_token_in_the_file_or_its_section_is_no_key_and_is_not_repeated(tmp_path: Path) -> None:
    for text, environ in (
        (f'{MINIMAL}[milvus]\ntoken = "root:{PASSWORD}"\n', {}),
        (MINIMAL, {"NIGHTLOOM_MILVUS__TOKEN": f"root:{PASSWORD}"}),
    ):
        says = refusal(tmp_path, text, environ)
        assert "milvus.token: secrets do not stand" in says
        assert PASSWORD not in says


@pytest.mark.parametrize(
    "uri",
    [
        f"http://root:{PASSWORD}@milvus:19530",
        f"https://root:{PASSWORD}@milvus:19530",
        f"tcp://root:{PASSWORD}@milvus:19530",
    ],
)
def test_credentials_in_the_address_are_refused_and_not_repeated(tmp_path: Path, uri: str) -> None:
    says = refusal(tmp_path, f'{MINIMAL}[milvus]\nuri = "{uri}"\n')
    assert "milvus.uri" in says
    assert PASSWORD not in says


def test_labels_say_what_a_source_is() -> None:
    assert SourceSettings(name="guides", path=Path("docs")).label == "guides"
    assert SourceSettings(url="http://h/a").label == "http://h/a"
    assert SourceSettings(urls=("http://h/a", "http://h/b")).label == "2 URLs"
    assert SourceSettings(urls=("http://h/a", "http://h/b")).addresses == ("http://h/a", "http://h/b")
    assert SourceSettings(path=Path("docs")).addresses == ()
