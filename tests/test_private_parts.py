"""Parts of pymilvus that are not public: which they are, that one module alone uses them, and what is there without."""

import ast
from importlib.metadata import version
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from nightloom import column_transfer
from nightloom.column_transfer import ColumnTransfer, PrivatePartsMoved
from nightloom.corpus import MilvusSettings
from nightloom.errors import IndexInputError
from nightloom.milvus import open_connection
from nightloom.row_transfer import RowTransfer
from tests.builders import ROOT

PRIVATE = {"_stub", "_get_connection", "Prepare", "grpc_gen", "milvus_pb2"}
ADVICE = (
    f"pymilvus {version('pymilvus')} has moved {{what}}, by which nightloom/column_transfer.py carries columns: mend it"
    ' there, and until then rows go by public functions (milvus.transfer = "rows", which "auto" takes by itself)'
)


def names_in(file: Path) -> set[str]:
    """Every name and attribute that a module uses, and every name that it imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names} | set((node.module or "").split("."))
    return found


def test_one_module_uses_them() -> None:
    files = [
        file for package in ("nightloom", "tasks", "flows", "deployments") for file in (ROOT / package).rglob("*.py")
    ]
    users = {file.name for file in files if names_in(file) & PRIVATE}
    assert users == {"column_transfer.py"}


def test_this_pymilvus_still_has_them(tmp_path: Path) -> None:
    assert column_transfer.MOVED is None, ADVICE.format(what=column_transfer.MOVED)
    client = MilvusClient(str(tmp_path / "index.db"))
    try:
        ColumnTransfer(client, database="", texts=("id",), numbers=(), left_out="", timeout_seconds=1)
    except PrivatePartsMoved as moved:
        pytest.fail(ADVICE.format(what=moved))
    finally:
        client.close()


async def test_rows_go_by_public_functions_where_they_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connection_of_another_version(_client: MilvusClient) -> object:
        return object()

    async with open_connection(MilvusSettings(uri=str(tmp_path / "index.db")), None) as opened:
        _ = opened.client
        with monkeypatch.context() as moved:
            moved.setattr(MilvusClient, "_get_connection", connection_of_another_version)
            assert type(opened.transfer) is RowTransfer
    settings = MilvusSettings(uri=str(tmp_path / "index.db"), transfer="columns")
    async with open_connection(settings, None) as opened:
        _ = opened.client
        with monkeypatch.context() as moved:
            moved.setattr(MilvusClient, "_get_connection", connection_of_another_version)
            with pytest.raises(IndexInputError, match=r'milvus.transfer: "columns" needs parts .*"rows"'):
                _ = opened.transfer


def test_what_cannot_be_imported_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_transfer, "MOVED", "cannot import name 'Prepare'")
    with pytest.raises(PrivatePartsMoved, match="Prepare"):
        ColumnTransfer(None, database="", texts=("id",), numbers=(), left_out="", timeout_seconds=1)
