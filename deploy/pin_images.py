"""Write the digests of base images and of the images that an overlay deploys, as a registry states them now.

    python deploy/pin_images.py [NAME ...]     default: every image that a Dockerfile or a kustomization names

Digests come from `docker buildx imagetools inspect` (or `crane digest`, where that is installed) and from nowhere else:
without either, or for an image that no registry knows, nothing is written and the exit code is 1.

In a kustomization it reads `images` in any style of YAML, for `kustomize edit set image` has its own. What is pinned is
the image that is pulled, by its `newName` where it has one. Image volumes take theirs from there, too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parent
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
IN_DOCKERFILE = re.compile(r"^(ARG \w+_IMAGE=)([\w./:-]+:[\w.-]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """An image that a file names, and where."""

    start: int
    end: int
    names: frozenset[str]
    """By which it may be asked for."""
    image: str
    """What is pulled, with its tag; without one, as long as the file names none."""
    pinned: Callable[[str], str]
    """The text between start and end, with a digest."""


def main() -> int:
    """Pin what was asked for; 1 if an image could not be pinned."""
    wanted = set(sys.argv[1:])
    known: dict[str, str | None] = {}
    for path in (*sorted(DEPLOY.glob("docker/*.Dockerfile")), *sorted(DEPLOY.glob("k8s/**/kustomization.yaml"))):
        text = pinned = path.read_text()
        entries = _in_dockerfile(text) if path.suffix == ".Dockerfile" else _in_kustomization(text)
        for entry in sorted(entries, key=lambda each: each.start, reverse=True):  # the last first: places stay true
            if wanted and not wanted & entry.names:
                continue
            if entry.image not in known:
                known[entry.image] = _digest(entry.image)
            if (digest := known[entry.image]) is not None:
                pinned = pinned[: entry.start] + entry.pinned(digest) + pinned[entry.end :]
        if pinned != text:
            path.write_text(pinned)
            print(f"pinned {path}")
    missing = sorted(image for image, digest in known.items() if digest is None)
    for image in missing:
        reason = "no registry states its digest" if _has_tag(image) else "its kustomization names no newTag"
        print(f"not pinned: {image}: {reason}", file=sys.stderr)
    return 1 if missing else 0


def _in_dockerfile(text: str) -> Iterator[Entry]:
    for found in IN_DOCKERFILE.finditer(text):
        image = found[2]
        yield Entry(*found.span(), frozenset({image.rpartition(":")[0]}), image, partial(_argument, found[1], image))


def _argument(assigned: str, image: str, digest: str) -> str:
    return f"{assigned}{image}@{digest}"


def _in_kustomization(text: str) -> Iterator[Entry]:
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    for key, images in root.value:
        for node in images.value if key.value == "images" else ():
            fields = {name.value: value.value for name, value in node.value}
            if "digest" in fields and "newTag" not in fields:
                continue  # pinned by hand, and nothing says which tag it was
            pulled = fields.get("newName", fields["name"])
            image = f"{pulled}:{fields['newTag']}" if "newTag" in fields else pulled
            # A mapping in block style ends where the next thing begins, comments in between included.
            end = node.end_mark.index if node.flow_style else node.value[-1][1].end_mark.index
            names = frozenset({fields["name"], pulled})
            yield Entry(node.start_mark.index, end, names, image, partial(_entry, fields))


def _entry(fields: dict[str, str], digest: str) -> str:
    """On one line; the tag in quotes, for 1.10 would be a number."""
    given = {**fields, "digest": digest}
    return "{" + ", ".join(f'{k}: "{v}"' if k == "newTag" else f"{k}: {v}" for k, v in given.items()) + "}"


def _has_tag(image: str) -> bool:
    return ":" in image.rpartition("/")[2]


def _digest(image: str) -> str | None:
    """What the registry states; never that of a tag that is not named."""
    if not _has_tag(image):
        return None
    if shutil.which("docker"):
        command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}"]
    elif shutil.which("crane"):
        command = ["crane", "digest", image]
    else:
        return None
    asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    digest = asked.stdout.strip()
    return digest if asked.returncode == 0 and DIGEST.fullmatch(digest) else None


if __name__ == "__main__":
    raise SystemExit(main())
