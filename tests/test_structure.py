"""Rules that no single module can hold: names, the tree of errors, the translation of pymilvus's, what is tracked."""

import ast
import importlib
import importlib.machinery
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from prefect import Flow, Task
from pymilvus import exceptions as milvus_errors

from nightloom import errors
from nightloom.errors import IndexRefused, IndexUnavailable, NightloomError, TransientError
from nightloom.milvus_errors import translating
from tests.builders import ROOT

PACKAGES = ("nightloom", "tasks", "flows")
FLOW_FILES = sorted(file for file in (ROOT / "flows").glob("*.py") if file.stem != "__init__")


# --- names


@pytest.mark.parametrize("file", FLOW_FILES, ids=lambda file: file.name)
def test_a_flow_file_shadows_no_module(file: Path) -> None:
    """Prefect puts the folder of a flow first on sys.path: a file there hides the module of its name."""
    assert file.stem not in sys.builtin_module_names
    assert file.stem not in sys.stdlib_module_names
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() not in {ROOT / "flows", ROOT / "tests"}]
    found = importlib.machinery.PathFinder.find_spec(file.stem, elsewhere)
    assert found is None, f"{file} hides {found.origin if found else ''}"


def imported(file: Path) -> set[str]:
    """What a file imports: packages, and the parts of our own, such as "nightloom.flows"."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {".".join(name.split(".")[: 2 if name.startswith("nightloom.") else 1]) for name in names}


def test_imports_run_one_way_and_pymilvus_has_one_importer() -> None:
    # pathlib follows no link: nightloom/ without the links to flows/ and tasks/ in it.
    files = {package: sorted((ROOT / package).rglob("*.py")) for package in PACKAGES}
    assert all(files.values())
    for file in files["nightloom"]:
        assert not imported(file) & {"prefect", "nightloom.tasks", "nightloom.flows"}, file
    for file in files["tasks"]:
        assert "nightloom.flows" not in imported(file), file
    for package, its_own in files.items():
        for file in its_own:
            assert not imported(file) & {"flows", "tasks"}, f"{file}: {package} is installed as a part of nightloom"
    importers = [file.name for package in PACKAGES for file in files[package] if "pymilvus" in imported(file)]
    assert importers == [
        "column_transfer.py",
        "milvus.py",
        "milvus_client.py",
        "milvus_errors.py",
        "row_transfer.py",
    ]


# --- errors

OURS = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, BaseException) and kind.__module__ == errors.__name__
}


def tree() -> dict[str, str]:
    """Name to parent, as the docstring of the module draws it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)", line)
        if drawn:
            depth = len(drawn[1]) // 4
            path[depth:] = [drawn[2]]
            parents[drawn[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    assert tree() == {name: kind.__bases__[0].__name__ for name, kind in OURS.items()}


def test_every_error_says_how_a_night_ends_and_with_which_code() -> None:
    codes = {"failed": 1, "refused": 2, "held": 3}
    for kind in OURS.values():
        assert issubclass(kind, NightloomError)
        assert codes[kind.outcome] == kind.exit_code
        assert kind.__doc__


MILVUS_ERRORS = sorted(
    (kind for kind in vars(milvus_errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)),
    key=lambda kind: kind.__name__,
)


def milvus_error(kind: Any) -> Exception:
    error = kind(code=1, message="what happened") if issubclass(kind, milvus_errors.MilvusException) else kind("what")
    assert isinstance(error, Exception)
    return error


def translated(error: Exception) -> NightloomError:
    with pytest.raises(NightloomError) as ours, translating():
        raise error
    return ours.value


@pytest.mark.parametrize("kind", MILVUS_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_pymilvus_becomes_one_of_ours(kind: Any) -> None:
    error = milvus_error(kind)
    ours = translated(error)
    assert type(ours) in {IndexRefused, IndexUnavailable}
    assert "what happened" in str(ours)
    assert ours.__cause__ is error


@pytest.mark.parametrize(
    "name",
    [
        "CollectionNotExistException",
        "ConnectionConfigException",
        "DataNotMatchException",
        "DataTypeNotMatchException",
        "DataTypeNotSupportException",
        "ParamError",
        "PrimaryKeyException",
        "SchemaNotReadyException",
        *(
            name
            for name in (
                "AmbiguousIndexName",
                "AutoIDException",
                "CannotInferSchemaException",
                "ClusteringKeyException",
                "FieldTypeException",
                "FieldsTypeException",
                "FunctionsTypeException",
                "InvalidConsistencyLevel",
                "PartitionKeyException",
                "ServerVersionIncompatibleException",
            )
        ),
    ],
)
def test_a_mistake_in_the_request_is_not_retried(name: str) -> None:
    assert type(translated(milvus_error(getattr(milvus_errors, name)))) is IndexRefused


@pytest.mark.parametrize("name", ["ConnectError", "MilvusUnavailableException", "ConnectionNotExistException"])
def test_an_absent_server_is_retried(name: str) -> None:
    assert isinstance(translated(milvus_error(getattr(milvus_errors, name))), TransientError)


@pytest.mark.parametrize("error", [grpc.RpcError("cut"), ConnectionResetError("cut"), BrokenPipeError("cut")])
def test_a_cut_connection_is_retried(error: Exception) -> None:
    assert type(translated(error)) is IndexUnavailable


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((code, IndexRefused) for code in (100, 102, 109, 800, 1100, 1102, 1601, 65_535)),
        *((code, IndexUnavailable) for code in (1, 2, 3, 8, 9, 101, 503, 505, 901, 10_001, grpc.StatusCode.UNKNOWN)),
    ],
)
@pytest.mark.parametrize("name", ["MilvusException", "DescribeCollectionException"])
def test_the_code_of_the_server_says_whether_a_retry_helps(name: str, code: int, kind: type[NightloomError]) -> None:
    assert type(translated(getattr(milvus_errors, name)(code=code, message="m"))) is kind


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("fail to Query on QueryNode 3: worker not healthy", IndexUnavailable),
        ("failed to get delegator 3 for channel by-dev-1", IndexUnavailable),
        ("can not find client of node -1", IndexUnavailable),
        ("field total not exist", IndexRefused),
        ("duplicate primary keys", IndexRefused),
    ],
)
def test_an_error_without_a_code_of_its_own_passes_where_it_is_about_the_moment(
    message: str, kind: type[NightloomError]
) -> None:
    assert type(translated(milvus_errors.MilvusException(code=65_535, message=message))) is kind


def test_a_collection_that_a_cache_does_not_know_is_refused() -> None:
    error = milvus_errors.DescribeCollectionException(0, "can't find collection[database=default][collection=c]", 4)
    assert type(translated(error)) is IndexRefused


def test_errors_that_are_not_of_milvus_pass_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), translating():
        raise ZeroDivisionError


# --- what Prefect keeps


def test_nothing_is_pickled_whatever_a_server_keeps_by_default() -> None:
    """Prefect stores results as pickles unless told otherwise: whoever can write where they lie then runs code."""
    files = [file for package in ("tasks", "flows") for file in sorted((ROOT / package).glob("*.py"))]
    modules = [
        importlib.import_module(f"nightloom.{file.parent.name}.{file.stem}")
        for file in files
        if file.stem != "__init__"
    ]
    found = {id(one): one for module in modules for one in vars(module).values()}.values()
    flows: list[Flow[Any, Any]] = [one for one in found if isinstance(one, Flow)]
    steps: list[Task[Any, Any]] = [one for one in found if isinstance(one, Task)]
    assert len(flows) >= 5
    assert len(steps) >= 5
    kept = [(one.name, one.persist_result) for one in flows] + [(one.name, one.persist_result) for one in steps]
    assert not [name for name, persisted in kept if persisted is not False]
    assert {one.result_serializer for one in flows} == {"json"}


# --- what is tracked


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    try:
        found = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no list of tracked files: {error}")
    return [ROOT / name for name in found.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_knows_where_this_checkout_lies(tracked: list[Path]) -> None:
    if len(ROOT.parts) < 3:
        pytest.skip(f"{ROOT} is too common a path to look for")
    place = re.compile(re.escape(str(ROOT)).encode() + rb"(?![\w-])")
    assert [str(file.relative_to(ROOT)) for file in tracked if place.search(file.read_bytes())] == []


def test_no_secret_looking_file_is_tracked(tracked: list[Path]) -> None:
    names = {file.name for file in tracked}
    assert not names & {".env", "id_rsa", "credentials.json", ".netrc", ".pypirc"}
    assert not [file for file in tracked if {"data", ".venv", "__pycache__"} & set(file.relative_to(ROOT).parts[:1])]
