"""Every block of code on the pages is run, parsed or read, by what it is; a block of another kind fails."""

import asyncio
import contextlib
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from llama_index.core import Settings
from llama_index.core.llms import MockLLM
from prefect.cli._app import _app as prefect_app
from prefect.events.schemas.automations import AutomationCore

from nightloom.corpus_file import load_corpus
from nightloom.documents import document_id
from nightloom.flows.console import app
from nightloom.flows.reference import PAGES
from nightloom.golden_files import read_qrels
from nightloom.milvus_client import release_lite
from nightloom.models import find_model
from tests.builders import MODEL, ROOT, command
from tests.index_once import index_once
from tests.nights import Home

WRITTEN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MADE = {ROOT / "docs" / name for name in PAGES}
"""Their blocks are what the code says of itself."""

CORPUS: dict[str, Any] = {
    "name": "docs",
    "sources": [{"path": "pages"}],
    "embedder": {"model": "m"},
    "milvus": {"uri": "index.db"},
    "evaluation": {"queries": "queries.jsonl", "qrels": "qrels.tsv"},
}
"""What the pieces of corpus files on the pages are pieces of."""

SHELL = {"cat", "cd", "cp", "echo", "export", "ls", "mkdir", "mv", "printf", "read", "rm", "source"}
DIAGRAMS = {"flowchart", "sequenceDiagram", "stateDiagram-v2"}
NEEDS_NO_OTHER = {"ask", "check", "evaluate", "generations", "run", "status", "verify"}
"""Commands that change nothing of a corpus that is as it was, and do it in seconds: those of the pages are run."""
OPTIONS_RUN = {"--top-k", "-k", "--passages", "--json", "--trec-run", "--trec-qrels", "--from-run"}
"""With these; what the others ask for, such as a filter, is of the page's own corpus."""
SOME_ID = "00000000-0000-0000-0000-000000000000"
HYBRID_ONLY = "bm25_keywords"


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@cache
def blocks() -> list[Block]:
    """All of them, in the order of their pages."""
    found = []
    for page in WRITTEN:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^([ >]*)(```+|~~~+)([^\n]*)\n(.*?)^\1\2 *$", text, re.MULTILINE | re.DOTALL):
            inside = "".join(line.removeprefix(match[1]) for line in match[4].splitlines(keepends=True))
            found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[3].strip(), inside))
    return found


def of(kind: str) -> list[Block]:
    return [block for block in blocks() if block.kind == kind]


def test_every_page_is_looked_through_to_its_end() -> None:
    for page in WRITTEN:
        fences = re.findall(r"^[ >]*(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * sum(block.page == page for block in blocks()), page


# --- what is read


def read_toml(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "corpus.toml"
    file.write_text("")
    load_corpus(file, CORPUS | tomllib.loads(block.text), {})


def read_json(block: Block, _: Path) -> None:
    for line in block.text.splitlines() if block.text.startswith('{"') else [block.text]:
        json.loads(line)


def read_yaml(block: Block, _: Path) -> None:
    """A piece of prefect.yaml may name what stands above it there."""
    try:
        found = yaml.safe_load(block.text)
    except yaml.YAMLError:
        found = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8") + "\n" + block.text)
    assert found
    if "trigger" in found:  # an automation: bootstrap puts an id where it has a name
        text = re.sub(r"((?:deployment|block_document)_id: ).*", rf"\g<1>{SOME_ID}", block.text)
        AutomationCore.model_validate(yaml.safe_load(text))


def read_tsv(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "qrels.tsv"
    file.write_text(block.text, encoding="utf-8")
    assert read_qrels(file)


def read_mermaid(block: Block, _: Path) -> None:
    assert block.text.split()[0] in DIAGRAMS
    assert len(re.findall(r"^ *subgraph\b", block.text, re.MULTILINE)) == len(
        re.findall(r"^ *end$", block.text, re.MULTILINE)
    )
    for left, right in ("[]", "()", "{}"):
        assert block.text.count(left) == block.text.count(right)


def read_text(block: Block, _: Path) -> None:
    """What a screen shows; what was typed there stands behind a prompt."""
    for line in block.text.splitlines():
        if line.startswith("$ "):
            check_line(line.removeprefix("$ "))


def read_console(block: Block, _: Path) -> None:
    if block.page in MADE:
        for line in block.text.removeprefix("$ ").splitlines():
            check_program([word for word in line.split() if re.fullmatch(r"[a-z-]+", word)] + ["--help"])
        return
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    for line in lines_of(block):
        check_line(line)


def read_python(block: Block, _: Path) -> None:
    compile(block.text, str(block), "exec")  # and they run, below


KINDS: dict[str, Callable[[Block, Path], None]] = {
    "console": read_console,
    "json": read_json,
    "mermaid": read_mermaid,
    "python": read_python,
    "text": read_text,
    "toml": read_toml,
    "tsv": read_tsv,
    "yaml": read_yaml,
}


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_is_what_it_says(block: Block, tmp_path: Path) -> None:
    assert block.kind in KINDS, f"{block}: nobody tests blocks of the kind {block.kind!r}; there are {', '.join(KINDS)}"
    KINDS[block.kind](block, tmp_path)


# --- commands


def lines_of(block: Block) -> list[str]:
    """The commands of a block, one a line, without what goes into files."""
    text = re.sub(r"<<-?\s*'?(\w+)'?(.*)\n(?:.*\n)*?\1$", r"\2", block.text, flags=re.MULTILINE)
    whole, open_line = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        open_line += line + "\n"
        with contextlib.suppress(ValueError):  # a quotation that goes on in the next line
            shlex.split(open_line, comments=True)
            whole.append(open_line)
            open_line = ""
    assert not open_line
    return whole


def check_line(line: str) -> None:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word not in {"&&", "||", "|", ";", "&"}:
            words.append(word.removesuffix(";"))
        elif words:
            check_program(words)
            words = []


def check_program(words: list[str]) -> None:
    """Check that a program is there, with what it is asked for."""
    while re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
        words = words[1:]
    if ">" in words:
        words = words[: words.index(">")]
    name, *rest = words
    if name == "nightloom":
        with contextlib.suppress(typer.Exit):  # of who only wants to know the version
            parse(typer.main.get_command(app), rest)
    elif name == "prefect":
        given = [SOME_ID if re.fullmatch("[A-Z_]+_ID", word) else word for word in rest if word != "--no-prompt"]
        prefect_app.parse_args(given, exit_on_error=False, print_error=False)
    elif name == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets), words
    elif name in {"python", "python3"}:
        check_python(rest)
    elif name in {"pip", "pipx", "uv"}:
        check_pip(rest)
    elif name in {"docker", "kubectl"}:
        check_tool(name, rest)
    else:
        assert name in SHELL, f"nobody tests what {name!r} is asked for"


def parse(found: Any, words: list[str]) -> None:
    """Read the words of a command as it would; an error is raised where it does not know one of them, or lacks one."""
    if words[-1:] == ["--help"]:
        for word in words[:-1]:
            found = found.commands[word]
        return
    with found.make_context("nightloom", list(words)) as context:
        if hasattr(found, "resolve_command"):
            _, inner, rest = found.resolve_command(context, context._protected_args + context.args)
            parse(inner, rest)


def check_python(words: list[str]) -> None:
    if words[0] == "-c":
        compile(words[1].strip(), "-c", "exec")
        for name, part in re.findall(r"from ([\w.]+) import (\w+)", words[1]):
            assert hasattr(__import__(name, fromlist=[part]), part), words
    elif words[0] != "-m":
        assert (ROOT / words[0]).is_file(), words


def check_pip(words: list[str]) -> None:
    assert words[0] in {"install", "tool", "pip", "venv"}, words
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        if asked := re.match(r"nightloom\[([\w,-]+)\]", word):
            assert set(asked[1].split(",")) <= set(extras), words


def check_tool(name: str, words: list[str]) -> None:
    """The files that it is given are there; where the tool is, too, so is the subcommand."""
    for option, value in itertools.pairwise(words):
        if option in {"--file", "-f", "--filename"}:
            assert (ROOT / value).exists(), words
    if not shutil.which(name):
        return
    pairs = itertools.pairwise(["", *words])
    wanted = [word for before, word in pairs if not before.startswith("-") and not word.startswith("-")][:2]
    said = subprocess.run([name, *wanted, "--help"], capture_output=True, text=True, check=False).stdout
    if name == "docker" and "docker [OPTIONS] COMMAND" in said and not has_compose():
        return
    assert re.search(rf"^ *(?:Usage: *)?{name} {' '.join(wanted)}\b", said, re.MULTILINE), words


@cache
def has_compose() -> bool:
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


# --- what is run

TEXTS = {
    "gate.md": "# The gate\n\nThe night holds a generation back when a check fails, and somebody is called.",
    "moon.md": "# Tides\n\nThe author learned that the moon pulls the water towards it twice a day.",
    "tea.md": "# Tea\n\nGreen tea is steeped at eighty degrees.",
}


@dataclass(frozen=True)
class Place:
    """A folder with an index that applications read.

    Attributes:
        names: What stands in the place of what the pages name.
    """

    folder: Path
    home: Home
    is_hybrid: bool
    names: dict[str, str]

    def run(self, page: list[Block]) -> None:
        """Run the Python blocks of a page, one after the other; each that prints must have found something."""
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for block in page:
            text = block.text
            for name, here in self.names.items():
                text = text.replace(name, here)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("\n" * block.line + text, str(block.page), "exec"), namespace)
            if "print(" in text:
                assert any(words in printed.getvalue() for words in ("gate", "night", "tea", "author")), block


def place(folder: Path, uri: str, *, is_hybrid: bool) -> Iterator[Place]:
    """An index of three pages, and the folder that applications run in."""
    home = Home(folder / "corpora", uri, f"pages_{document_id(str(folder))[:12]}")
    home.write({})
    (home.folder / "texts").rename(home.folder / "handbook")
    for name, text in TEXTS.items():
        (home.folder / "handbook" / name).write_text(text, encoding="utf-8")
    home.configure('[retrieval]\nmode = "hybrid"\n' if is_hybrid else "")
    named = home.folder / f"{home.name}.toml"
    text = home.file.read_text(encoding="utf-8")
    for old, new in ((f'"{uri}"', json.dumps(uri)), ('"texts"', '"handbook"')):
        text = text.replace(old, new)
    (home.folder / "qrels.tsv").write_text("".join(f"q{at}\thandbook/tea.md\t1\n" for at in (1, 2, 3)))
    named.write_text(text, encoding="utf-8")
    here = Home(home.folder, uri, home.name)
    names = {
        "http://localhost:19530": uri,
        "BAAI/bge-base-en-v1.5": str(find_model(MODEL)),
        '"company"': f'"{home.name}"',
        '"tutorial"': f'"{home.name}"',
        "corpora/company.toml": f"corpora/{home.name}.toml",
    }
    yield Place(folder, here, is_hybrid, names)
    if not uri.endswith(".db"):
        here.drop_collections()
    else:
        release_lite(uri)


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def reading(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where the pages' applications read: hybrid on Milvus Lite, dense on a server, which may be of 2.3."""
    folder = tmp_path_factory.mktemp("reading")
    on_lite = request.param == "lite"
    uri = str(folder / "index.db") if on_lite else request.getfixturevalue("milvus_server")
    for made in place(folder, uri, is_hybrid=on_lite):
        asyncio.run(index_once(load_corpus(made.home.folder / f"{made.home.name}.toml", environ={})))
        yield made


@pytest.fixture
def in_place(reading: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """There, with a model for the answers that only repeats what it reads."""
    monkeypatch.chdir(reading.folder)
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    return reading


PYTHON = [block for block in of("python") if "langchain" not in block.text]


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, in_place: Place) -> None:
    runs = [block for block in PYTHON if block.page == page and (in_place.is_hybrid or HYBRID_ONLY not in block.text)]
    if not runs:
        pytest.skip("all of it is for hybrid retrieval, which a server of 2.3 has not")
    in_place.run(runs)


@pytest.mark.parametrize("block", [block for block in of("python") if block not in PYTHON], ids=str)
def test_the_langchain_of_a_page_runs(block: Block, in_place: Place) -> None:
    pytest.importorskip("langchain_milvus", reason="of the extra `bench`")
    in_place.run([block])


def cheap() -> list[list[str]]:
    """The commands of the pages that are run: each once, whatever the corpus."""
    found: dict[str, list[str]] = {}
    for block in of("console"):
        for line in lines_of(block) if block.page not in MADE else []:
            words = shlex.split(line, comments=True)
            options = {word for word in words if word.startswith("-")}
            if words[:1] == ["nightloom"] and words[1] in NEEDS_NO_OTHER and options <= OPTIONS_RUN:
                found.setdefault(" ".join(word for word in words if word.startswith("-") or word in words[:2]), words)
    return list(found.values())


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("reading", ["lite"], indirect=True)
def test_the_commands_of_the_pages_run(in_place: Place) -> None:
    file = str(in_place.home.folder / f"{in_place.home.name}.toml")
    assert {words[1] for words in cheap()} >= {"ask", "check", "evaluate", "generations", "run"}
    for _, *words in [*cheap(), ["nightloom", "status", "x.toml"]]:
        given = [file if word.endswith(".toml") else word for word in words]
        if "--from-run" in given:
            Path(given[given.index("--from-run") + 1]).write_text("q1 Q0 handbook/tea.md 1 0.5 theirs\n")
        done = command(*given)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert done.stdout, words
