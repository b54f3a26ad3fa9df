"""The image, the compose file and the manifests for Kubernetes (docs/deploy/containers.md)."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from smtpproxy.config import parse
from smtpproxy.process.children import SLOWEST_START
from tests.kit.pages import section
from tests.kit.parts import needs, program, tool
from tests.kit.ports import wait_for
from tests.kit.processes import run
from tests.kit.relay import REPOSITORY

COMPOSE = REPOSITORY / "config" / "compose"
KUBERNETES = REPOSITORY / "config" / "kubernetes"
CONTAINERFILE = REPOSITORY / "Containerfile"
MANIFESTS = sorted(set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "kustomization.yaml"})
OLDEST, NEWEST = "1.29", "1.37"  # ReadWriteOncePod
YAML_STYLE = {
    "extends": "default",
    "rules": {"document-start": "disable", "line-length": {"max": 120}, "octal-values": "disable"},
}
HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def silent(*command: str) -> None:
    done = run(*command, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_accepts_the_containerfile() -> None:
    silent(tool("hadolint"), str(CONTAINERFILE))


def test_the_image_installs_only_locked_packages() -> None:
    text = CONTAINERFILE.read_text()
    assert len(re.findall(r"install --require-hashes -r requirements[\w-]*\.lock", text)) == 2
    assert "--without-pip /opt/smtpproxy" in text
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert (REPOSITORY / source).exists()
        assert f"!{source}" in ignored


def test_yamllint_accepts_the_manifests() -> None:
    silent(tool("yamllint"), "-d", json.dumps(YAML_STYLE), str(COMPOSE), str(KUBERNETES))


def test_the_compose_file_is_valid() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    silent(tool("check-jsonschema"), *schema, str(COMPOSE / "compose.yaml"))


def test_haproxy_has_the_address_that_relays_trust_in_any_starting_order() -> None:
    compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    address = compose["services"]["haproxy"]["networks"]["mail"]["ipv4_address"]
    (pool,) = compose["networks"]["mail"]["ipam"]["config"]
    assert ip_address(address) in ip_network(pool["subnet"])
    assert ip_address(address) not in ip_network(pool["ip_range"])
    (listener,) = parse((COMPOSE / "smtpproxy.toml").read_text(), "smtpproxy.toml").listeners
    assert [str(trusted) for trusted in listener.proxy_trusted] == [f"{address}/32"]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_accepts_the_manifests(version: str) -> None:
    silent(tool("kubernetes-validate"), "--strict", "-k", version, *map(str, MANIFESTS))


def pods() -> Iterator[dict[str, Any]]:
    """The pod specifications in all manifests."""
    for path in MANIFESTS:
        for manifest in yaml.safe_load_all(path.read_text()):
            if "template" in manifest["spec"]:
                yield manifest["spec"]["template"]["spec"]


def test_pods_have_no_privileges_and_limited_resources() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            assert container["securityContext"] == HARDENED
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")
    assert len(list(pods())) == 2


def test_a_pod_has_time_to_drain() -> None:
    settings = parse((KUBERNETES / "smtpproxy.toml").read_text(), "smtpproxy.toml")
    (relay,) = [pod for pod in pods() if "terminationGracePeriodSeconds" in pod]
    (_, pause) = relay["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    left = relay["terminationGracePeriodSeconds"] - int(pause)
    assert left >= settings.server.drain_timeout + 20


def test_a_slow_start_is_not_cut_short() -> None:
    (relay,) = [pod for pod in pods() if "terminationGracePeriodSeconds" in pod]
    probe = relay["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= SLOWEST_START
    (minutes,) = re.findall(r"--start-period=(\d+)m ", CONTAINERFILE.read_text())
    assert int(minutes) * 60 >= SLOWEST_START


def test_journals_are_shipped_once_more_after_the_relay_has_ended(tmp_path: Path) -> None:
    (relay,) = [pod for pod in pods() if "initContainers" in pod]
    (ship,) = relay["initContainers"]
    assert ship["restartPolicy"] == "Always"  # so that it ends after the relay
    calls, stub = tmp_path / "calls", tmp_path / "smtpproxy"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    stub.chmod(0o755)
    environment = {one["name"]: one["value"] for one in ship["env"]}
    path = f"{tmp_path}:{os.environ['PATH']}"
    with subprocess.Popen(ship["command"], env={**environment, "PATH": path}) as running:
        wait_for(calls.exists, "the first copy")
        running.terminate()
        assert running.wait(20) == 0
    assert calls.read_text().splitlines() == ["audit ship /record"] * 2


def test_files_that_are_referred_to_exist() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert {KUBERNETES / name for name in kustomization["resources"]} < set(MANIFESTS)
    (image,) = kustomization["images"]
    assert f"{image['newName']}:{image['newTag']}" in (KUBERNETES / "migrate.yaml").read_text()
    compose = (COMPOSE / "compose.yaml").read_text()
    mounted = re.findall(r"\./([\w.]+):", compose)
    assert mounted
    assert [name for name in mounted if not (COMPOSE / name).exists()] == []


@pytest.mark.parametrize("folder", [COMPOSE, KUBERNETES])
def test_relays_are_configured_for_the_ports_of_the_manifests(folder: Path) -> None:
    settings = parse((folder / "smtpproxy.toml").read_text(), "smtpproxy.toml")
    assert settings.web is not None
    assert [str(one.address) for one in settings.listeners] == ["0.0.0.0:2525"]
    assert str(settings.web.address) == "0.0.0.0:8025"
    assert settings.server.state_dir == Path("/var/lib/smtpproxy")


def test_the_owner_has_the_same_configuration_except_for_its_role() -> None:
    owner, relay = ((COMPOSE / name).read_text() for name in ("owner.toml", "smtpproxy.toml"))
    lines = owner.replace("smtpproxy_owner@", "smtpproxy@").splitlines()
    assert lines[1:] == relay.splitlines()[1:]
    assert owner != relay


@needs("haproxy")
def test_haproxy_accepts_its_configuration() -> None:
    silent(program("haproxy"), "-c", "-f", str(COMPOSE / "haproxy.cfg"))


@needs("promtool")
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """Except for pod discovery, which Debian's Prometheus lacks."""
    lines = section("deploy/containers.md", "Kubernetes")[-1]
    lines = re.sub(r"kubernetes_sd_configs:\n +- role: pod\n", "static_configs: []\n", lines)
    assert "static_configs" in lines
    (tmp_path / "prometheus.yml").write_text(lines)
    silent(program("promtool"), "check", "config", str(tmp_path / "prometheus.yml"))
