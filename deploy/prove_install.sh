#!/usr/bin/env bash
# Run the install steps of each role's Dockerfile in a clean virtual environment, start the role's command, and print sizes.
#   deploy/prove_install.sh [ROLE ...]      default: gateway encoder retriever trainer
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
printf '%-10s %8s  %s\n' role MB 'engines present'
for role in "${@:-gateway encoder retriever trainer}"; do for role in $role; do
  "${PYTHON:-python3}" -m venv "$scratch/$role"
  bin="$scratch/$role/bin"
  extras=$(sed -n "s/.*'\.\[\([a-z,]*\)\]'.*/\1/p" "deploy/docker/$role.Dockerfile")
  "$bin/pip" install -qq --no-cache-dir --constraint constraints.txt ".[$extras]" 2> "$scratch/log" || { cat "$scratch/log"; exit 1; }
  words=$(sed -n 's/^CMD \["\([a-z]*\)", "\([a-z]*\).*/\1 \2/p' "deploy/docker/$role.Dockerfile")
  case $role in trainer) words=train ;; esac
  (cd "$scratch" && "$bin/clozerec" $words --help > /dev/null)
  engines=$("$bin/python" -c 'from importlib.util import find_spec as f; print(*[m for m in ("torch", "faiss", "onnxruntime") if f(m)])')
  "$bin/pip" uninstall -qq --yes pip
  find "$scratch/$role" -name __pycache__ -prune -exec rm -rf {} +
  printf '%-10s %8s  %s\n' "$role" "$(du -sm "$scratch/$role" | cut -f1)" "$engines"
  rm -rf "${scratch:?}/$role"
done; done
