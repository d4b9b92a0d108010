"""The lock files: each names everything, by version and hash, for every platform and Python that this runs on."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import cast

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.builders import ROOT

PYMILVUS3 = "requirements-pymilvus3.lock"
HASHED = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock", "requirements-audit.lock", PYMILVUS3)
TORCH = "requirements-torch.lock"


def entries(name: str) -> dict[str, tuple[Requirement, frozenset[str]]]:
    """Every package of a lock file with its hashes."""
    text = re.sub(r"^\s*#.*$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, tuple[Requirement, frozenset[str]]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            words, *hashes = line.split("--hash=")
            requirement = Requirement(words.strip())
            found[canonicalize_name(requirement.name)] = requirement, frozenset(entry.strip() for entry in hashes)
    return found


@pytest.mark.parametrize("name", HASHED)
def test_everything_has_one_version_and_a_hash_of_each_of_its_files(name: str) -> None:
    for package, (requirement, hashes) in entries(name).items():
        assert [pin.operator for pin in requirement.specifier] == ["=="], package
        assert hashes, package
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", entry) for entry in hashes), package


@pytest.mark.parametrize("name", [*HASHED, TORCH])
def test_no_lock_file_names_an_index_or_an_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|--index|--extra-index|--find-links|^-[ie] ", text, re.MULTILINE)


def test_torch_alone_stands_apart_in_the_version_that_everything_was_measured_with() -> None:
    (pin,) = re.findall(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert [str(requirement) for requirement, _ in entries(TORCH).values()] == [pin]
    for name in HASHED:
        assert "torch" not in entries(name), name
        # A build for processors needs none of NVIDIA's libraries, and pip knows which a build for GPUs needs.
        assert not [package for package in entries(name) if package.startswith(("nvidia-", "triton", "cuda-"))], name


@pytest.mark.parametrize("name", ["requirements-dev.lock", "requirements-bench.lock"])
def test_a_machine_for_tests_runs_what_a_worker_runs(name: str) -> None:
    larger = entries(name)
    for package, (requirement, hashes) in entries("requirements.lock").items():
        if package in larger:
            assert larger[package] == (requirement, hashes), package


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.lock", ["build"]),
        ("requirements-dev.lock", ["build", "dev", "milvus"]),
        ("requirements-bench.lock", ["bench"]),
    ],
)
def test_what_is_asked_for_is_locked_in_a_version_that_was_asked_for(name: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    locked = entries(name) | entries(TORCH)
    for requirement in map(Requirement, asked):
        found, _ = locked[canonicalize_name(requirement.name)]
        (pin,) = found.specifier
        assert requirement.specifier.contains(pin.version), f"{name}: {found} for {requirement}; run `make lock`"


def test_the_next_pymilvus_comes_alone_and_before_the_one_that_a_worker_has() -> None:
    (requirement, _), *others = entries(PYMILVUS3).values()
    assert not others, "the rest is that of .venv"
    assert str(requirement).startswith("pymilvus==3.")
    make = ["make", "--dry-run", "--always-make", "--no-print-directory", "test-pymilvus3"]
    dry = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    tests = dry.replace("\\\n", " ").splitlines()[-1]
    assert tests.startswith(f"PYTHONPATH={ROOT}/build/pymilvus3 ")
    assert {"tests/test_nights.py", "tests/test_hybrid.py", "tests/test_reads.py"} <= set(tests.split())
    assert not {"tests/test_formats_pdf.py", "tests/test_backends.py"} & set(tests.split())


@pytest.mark.parametrize("python", ["3.11.14", "3.12.12", "3.13.9"])
@pytest.mark.parametrize(("platform", "machine"), [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")])
def test_what_prefect_needs_on_a_python_is_locked_for_it(python: str, platform: str, machine: str) -> None:
    """Prefect reads times with another library from 3.13 on: a lock made on one Python alone lacks it."""
    environment: dict[str, str] = {
        **cast("dict[str, str]", default_environment()),
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": platform,
        "platform_machine": machine,
    }
    here = {
        package
        for package, (requirement, _) in entries("requirements.lock").items()
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }
    assert ("whenever" if python.startswith("3.13") else "pendulum") in here
    assert {"prefect", "pymilvus", "milvus-lite", "onnxruntime", "uvicorn"} <= here


def commands() -> list[str]:
    """Every call of pip in the Makefile, as make would run it, and in the image."""
    targets = (".venv/installed-bench", "build/audit/installed", "build/pymilvus3/installed")
    make = ["make", "--dry-run", "--always-make", *targets]
    dry = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    image = (ROOT / "deployments" / "Dockerfile").read_text(encoding="utf-8")
    lines = f"{dry}\n{image}".replace("\\\n", " ").splitlines()
    return [line for line in lines if "pip install" in line]


@pytest.mark.parametrize(
    ("there", "taken"), [(["python3.11", "python3.13"], "python3.11"), (["python3.12"], "python3.12"), ([], "python3")]
)
def test_the_first_python_that_runs_is_taken(tmp_path: Path, there: list[str], taken: str) -> None:
    (tmp_path / "python3.11").write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")  # one that says it is there
    (tmp_path / "python3.11").chmod(0o755)
    for name in there:
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(sys.executable)
    make = shutil.which("make") or "make"
    environ = {"PATH": str(tmp_path)}
    done = subprocess.run(
        [make, "--dry-run", "--always-make", ".venv/installed"],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"{taken} -m venv")


def test_nothing_but_torch_is_installed_without_its_hash() -> None:
    found = commands()
    for name in HASHED:
        assert [line for line in found if line.endswith(f"--requirement {name}")], name
    for line in found:
        if "--require-hashes" not in line:
            apart = line.endswith(f"--requirement {TORCH}")
            own = "--no-deps --no-build-isolation --editable ." in line
            assert apart or own, line


def test_a_file_that_was_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    """The words of the lock files mean what they are meant to: pip itself refuses, offline."""
    pin, digest = "whatever==1.0", "0" * 64
    wheel = tmp_path / "whatever-1.0-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    lock = tmp_path / "some.lock"
    lock.write_text(f"{pin} \\\n    --hash=sha256:{digest}\n", encoding="utf-8")
    (line,) = [line for line in commands() if line.startswith(".venv") and line.endswith(" requirements.lock")]
    words = line.partition("pip install")[2].removesuffix("requirements.lock").split()
    call = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", tmp_path, "--target", tmp_path / "at"]
    done = subprocess.run(
        [*map(str, call), *words, str(lock)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
