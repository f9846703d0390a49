"""Builds kustomizations and reads what comes out."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

Document = dict[str, Any]

REPOSITORY = Path(__file__).parents[2]
K8S = REPOSITORY / "deploy" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
ORDER = (
    "canary",
    "network-policies",
    "redis",
    "tls",
    "tokens",
    "autoscaling",
    "monitoring",
    "tracing",
    "trainer",
    "image-volume",
)
"""Components, the canary first so that the others apply to its stack too."""
ALTERNATIVES = {"trainer", "image-volume"}
"""Two ways to deliver a bundle: never both."""
KUBERNETES = "1.37"
CUSTOM = {"Certificate", "PodMonitor", "PrometheusRule"}
"""Resources of operators; their schemas are not Kubernetes's."""
SPARE_S = 10
"""From the end of the grace to SIGKILL: to close stores and send the last spans."""
OURS = {"gateway", "encoder", "retriever", "trainer"}


def combinations(sizes: range | tuple[int, ...]) -> Iterator[tuple[str, ...]]:
    """Every choice of so many components that can stand together."""
    for size in sizes:
        for chosen in itertools.combinations(ORDER, size):
            if not set(chosen) >= ALTERNATIVES:
                yield chosen


@cache
def build(*components: str, overlay: str = "", patches: str = "") -> tuple[Document, ...]:
    """What `kubectl kustomize` makes of an overlay, or of the base with these components and patches (YAML)."""
    if overlay:
        return _build(K8S / "overlays" / overlay)
    with tempfile.TemporaryDirectory(dir=K8S / "overlays", prefix=".combination-") as directory:
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "clozerec",
            "resources": ["../../base"],
            "components": [f"../../components/{name}" for name in components],
            "patches": yaml.safe_load(patches or "[]"),
        }
        (Path(directory) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _build(Path(directory))


def _build(directory: Path) -> tuple[Document, ...]:
    made = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def of_kind(documents: tuple[Document, ...], *kinds: str) -> list[Document]:
    """Those of these kinds."""
    return [document for document in documents if document["kind"] in kinds]


def pods(documents: tuple[Document, ...]) -> dict[str, Document]:
    """Pod templates by the name of what makes them."""
    found = {
        doc["metadata"]["name"]: doc["spec"]["template"] for doc in of_kind(documents, "Deployment", "StatefulSet")
    }
    for job in of_kind(documents, "CronJob"):
        found[job["metadata"]["name"]] = job["spec"]["jobTemplate"]["spec"]["template"]
    return found


def selects(selector: Mapping[str, str], pod: Document) -> bool:
    """Equality of labels."""
    return selector.items() <= pod["metadata"]["labels"].items()


def containers(pod: Document) -> list[Document]:
    """Init containers too."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def variables(documents: tuple[Document, ...], container: Document) -> dict[str, str]:
    """A container's environment, config maps included; secrets stand in as their key."""
    found: dict[str, str] = {}
    maps = {doc["metadata"]["name"]: doc["data"] for doc in of_kind(documents, "ConfigMap")}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    for entry in container.get("env", []):
        found[entry["name"]] = entry["value"] if "value" in entry else entry["valueFrom"]["secretKeyRef"]["key"]
    return found


def main(directory: Path) -> None:
    """Build every combination and hold it against the schemas: `python -m deploy.manifests DIRECTORY`.

    The overlays, each component alone and all of them together are written there, for checkov: it looks at one resource
    at a time, and those hold every one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chosen = {overlay: build(overlay=overlay) for overlay in OVERLAYS}
    chosen |= {"+".join(("base", *each)): build(*each) for each in combinations(range(len(ORDER) + 1))}
    for name, documents in chosen.items():
        for document in documents:
            if document["kind"] not in CUSTOM:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
        if name in OVERLAYS or name.count("+") <= 1 or name.count("+") == len(ORDER) - 1:
            (directory / f"{name}.yaml").write_text(yaml.safe_dump_all(documents))
    print(f"{len(chosen)} combinations build and keep to Kubernetes {KUBERNETES}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
