"""Dockerfiles, compose and the pinning of images, as far as that can be seen without an engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deploy.manifests import REPOSITORY, SPARE_S

from clozerec_encoder.settings import EncoderSettings
from clozerec_gateway.settings import GatewaySettings
from clozerec_retriever.settings import RetrieverSettings

DOCKER = REPOSITORY / "deploy" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SETTINGS = {"gateway": GatewaySettings, "encoder": EncoderSettings, "retriever": RetrieverSettings}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_no_image_runs_as_root_or_has_a_compiler(path: Path) -> None:
    text = path.read_text()
    assert "USER 65532:65532" in text.rsplit("FROM", maxsplit=1)[1]
    assert "apt-get" not in text


@pytest.mark.parametrize("role", sorted(SETTINGS))
def test_an_image_installs_its_own_extra_and_exposes_the_default_ports(role: str) -> None:
    text = (DOCKER / f"{role}.Dockerfile").read_text()
    assert f"'.[{role},tracing]'" in text
    assert f'CMD ["serve", "{role}"]' in text
    exposed = {int(port) for port in re.search(r"^EXPOSE (.*)$", text, re.MULTILINE)[1].split()}  # type: ignore[index]
    fields = SETTINGS[role].model_fields
    assert exposed == {fields[name].default for name in ("grpc_port", "http_port", "metrics_port") if name in fields}


def test_what_dockerfiles_copy_is_let_through_by_dockerignore() -> None:
    allowed = {
        line.removeprefix("!") for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if "!" in line
    }
    for role in (*SETTINGS, "trainer"):
        text = (DOCKER / f"{role}.Dockerfile").read_text()
        copied = {word for words in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for word in words.split()}
        assert copied <= allowed
        assert all((REPOSITORY / name).exists() for name in copied)


def test_compose_gives_each_service_variables_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    from clozerec_cli.settings import EVERY_KIND

    services = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())["services"]
    assert set(services) == set(SETTINGS)
    for role, service in services.items():
        with monkeypatch.context() as environment:
            for name, value in service["environment"].items():
                environment.setenv(name, str(value))
            SETTINGS[role].load({}, EVERY_KIND)
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert (REPOSITORY / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_what_compose_mounts_to_write_belongs_to_the_user_of_the_image() -> None:
    composed = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())
    written = 0
    for role, service in composed["services"].items():
        mounts = [mount for mount in service["volumes"] if not mount.endswith(":ro")]
        for mount in mounts:
            name, path = mount.split(":")
            assert name in composed["volumes"], "a directory of the host belongs to whoever made it"
            before_user, _ = (DOCKER / f"{role}.Dockerfile").read_text().rsplit("\nUSER ", maxsplit=1)
            last_stage = before_user.rsplit("\nFROM ", maxsplit=1)[1]
            owner, group = service["user"].split(":")
            assert f"RUN install --directory --owner {owner} --group {group} {path}\n" in last_stage + "\n"
            written += 1
        state_dir = service["environment"].get("CLOZEREC_STATE_DIR")
        assert [mount.split(":")[1] for mount in mounts] == ([state_dir] if state_dir else [])
    assert written == 2, "gateway and retriever keep state"


def test_compose_waits_for_calls_under_way() -> None:
    services = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())["services"]
    for service in services.values():
        given = service["environment"]
        stopping_s = int(given["CLOZEREC_DRAIN_DELAY_S"]) + int(given["CLOZEREC_GRACE_S"])
        assert stopping_s + SPARE_S <= int(service["stop_grace_period"].removesuffix("s"))


DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def copy_of_deploy(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "deploy", tmp_path / "deploy")
    return tmp_path / "deploy"


def pin(deploy: Path, crane: str, *names: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with this as the only registry client on its path."""
    bin_dir = deploy.parent / "bin"
    bin_dir.mkdir(exist_ok=True)
    (bin_dir / "crane").write_text(f"#!/bin/sh\n{crane}\n")
    (bin_dir / "crane").chmod(0o755)
    return subprocess.run(
        [sys.executable, deploy / "pin_images.py", *names],
        env={**os.environ, "PATH": f"{bin_dir}:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_images_are_pinned_by_what_the_registry_says_and_can_be_pinned_again(copy_of_deploy: Path) -> None:
    assert pin(copy_of_deploy, f"echo {DIGEST}").returncode == 0
    assert (
        f"ARG PYTHON_IMAGE=python:3.12-slim-bookworm@{DIGEST}"
        in (copy_of_deploy / "docker/gateway.Dockerfile").read_text()
    )
    base = copy_of_deploy / "k8s/base/kustomization.yaml"
    assert f'{{name: clozerec/gateway, newTag: "0.1.0", digest: {DIGEST}}}' in base.read_text()
    newer = DIGEST.replace("ab", "cd")
    assert pin(copy_of_deploy, f"echo {newer}", "clozerec/gateway").returncode == 0
    assert f'{{name: clozerec/gateway, newTag: "0.1.0", digest: {newer}}}' in base.read_text()
    assert f'{{name: clozerec/encoder, newTag: "0.1.0", digest: {DIGEST}}}' in base.read_text()


IMAGES = """\
images:
  # kept
  - {{name: clozerec/gateway, newName: "registry.example:5000/gateway", newTag: "2"{digest}}}
  - name: clozerec/encoder # what `kustomize edit set image` writes
    newName: registry.example/encoder
    newTag: "1.10"{digest_line}
# kept, too
patches: []
"""


@pytest.mark.parametrize("digest", ["", "sha256:" + "0" * 64])
def test_an_image_of_another_registry_is_pinned_in_whatever_style_it_is_written(
    copy_of_deploy: Path, digest: str
) -> None:
    path = copy_of_deploy / "k8s/overlays/mine/kustomization.yaml"
    path.parent.mkdir()
    path.write_text(
        IMAGES.format(
            digest=f", digest: {digest}" if digest else "", digest_line=f"\n    digest: {digest}" if digest else ""
        )
    )
    asked = copy_of_deploy / "asked"
    done = pin(
        copy_of_deploy, f'echo "$2" >> {asked}; echo {DIGEST}', "registry.example:5000/gateway", "clozerec/encoder"
    )
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert yaml.safe_load(text)["images"] == [
        {"name": "clozerec/gateway", "newName": "registry.example:5000/gateway", "newTag": "2", "digest": DIGEST},
        {"name": "clozerec/encoder", "newName": "registry.example/encoder", "newTag": "1.10", "digest": DIGEST},
    ]
    assert "  # kept\n" in text
    assert "\n# kept, too\npatches: []\n" in text
    assert set(asked.read_text().split()) == {
        "registry.example:5000/gateway:2",
        "registry.example/encoder:1.10",
        "clozerec/encoder:0.1.0",  # of the base, which was asked for as well
    }


def test_an_image_without_a_tag_is_not_guessed(copy_of_deploy: Path) -> None:
    path = copy_of_deploy / "k8s/overlays/small/kustomization.yaml"
    path.write_text(path.read_text() + "images:\n  - {name: mine, newName: registry.example:5000/mine}\n")
    before = path.read_text()
    done = pin(copy_of_deploy, f"echo {DIGEST}", "mine")
    assert done.returncode == 1
    assert "not pinned: registry.example:5000/mine: its kustomization names no newTag" in done.stderr
    assert path.read_text() == before


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, whose kustomize builds these")
def test_every_image_that_is_deployed_can_be_pinned(copy_of_deploy: Path) -> None:
    """An image volume names one as well."""
    assert pin(copy_of_deploy, f"echo {DIGEST}").returncode == 0
    path = copy_of_deploy / "k8s/overlays/mine/kustomization.yaml"
    path.parent.mkdir()
    for delivery in ("image-volume", "trainer"):
        components = [f"../../components/{name}" for name in ("canary", "redis", delivery)]
        path.write_text(yaml.safe_dump({"resources": ["../../base"], "components": components}))
        built = subprocess.run(["kubectl", "kustomize", path.parent], capture_output=True, text=True, check=True)
        images = re.findall(r"(?:image|reference): (\S+)", built.stdout)
        assert len(images) > 10
        assert [image for image in images if not image.endswith(f"@{DIGEST}")] == []


@pytest.mark.parametrize("crane", ["exit 1", "echo no such image", "echo sha256:abc"])
def test_a_digest_is_never_invented(copy_of_deploy: Path, crane: str) -> None:
    done = pin(copy_of_deploy, crane)
    assert done.returncode == 1
    assert "not pinned: clozerec/gateway:0.1.0" in done.stderr
    assert not any("sha256:" in path.read_text() for path in copy_of_deploy.rglob("*.Dockerfile"))
