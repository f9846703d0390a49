"""Write the digests of base images and of the images that an overlay deploys, as a registry states them now.

    python deploy/pin_images.py [NAME ...]     default: every image that a Dockerfile or a kustomization names

Digests come from `docker buildx imagetools inspect` (or `crane digest`, where that is installed) and from nowhere else:
without either, or for an image that no registry knows, nothing is written and the exit code is 1.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DEPLOY = Path(__file__).parent
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
IN_DOCKERFILE = re.compile(r"^(ARG \w+_IMAGE=)([\w./-]+:[\w.-]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE)
IN_KUSTOMIZATION = re.compile(
    r'^(\s+- \{name: )([\w./-]+)(, newTag: )"?([\w.-]+)"?(?:, digest: sha256:[0-9a-f]{64})?\}$', re.MULTILINE
)


def main() -> int:
    """Pin what was asked for; the number of images that could not be pinned, at most 1."""
    wanted = set(sys.argv[1:])
    known: dict[str, str | None] = {}
    for path in (*sorted(DEPLOY.glob("docker/*.Dockerfile")), *sorted(DEPLOY.glob("k8s/**/kustomization.yaml"))):
        text = path.read_text()
        for image in _images(text):
            if (not wanted or image.rpartition(":")[0] in wanted) and image not in known:
                known[image] = _digest(image)
        pinned = IN_DOCKERFILE.sub(lambda found: _dockerfile_line(found, known), text)
        pinned = IN_KUSTOMIZATION.sub(lambda found: _kustomization_line(found, known), pinned)
        if pinned != text:
            path.write_text(pinned)
            print(f"pinned {path}")
    missing = sorted(image for image, digest in known.items() if digest is None)
    for image in missing:
        print(f"not pinned: {image}: no registry states its digest", file=sys.stderr)
    return 1 if missing else 0


def _images(text: str) -> Iterator[str]:
    for found in IN_DOCKERFILE.finditer(text):
        yield found[2]
    for found in IN_KUSTOMIZATION.finditer(text):
        yield f"{found[2]}:{found[4]}"


def _digest(image: str) -> str | None:
    if shutil.which("docker"):
        command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}"]
    elif shutil.which("crane"):
        command = ["crane", "digest", image]
    else:
        return None
    asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    digest = asked.stdout.strip()
    return digest if asked.returncode == 0 and DIGEST.fullmatch(digest) else None


def _dockerfile_line(found: re.Match[str], known: dict[str, str | None]) -> str:
    digest = known.get(found[2])
    return found[0] if digest is None else f"{found[1]}{found[2]}@{digest}"


def _kustomization_line(found: re.Match[str], known: dict[str, str | None]) -> str:
    digest = known.get(f"{found[2]}:{found[4]}")
    return found[0] if digest is None else f'{found[1]}{found[2]}{found[3]}"{found[4]}", digest: {digest}}}'


if __name__ == "__main__":
    raise SystemExit(main())
