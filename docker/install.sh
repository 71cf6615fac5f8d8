#!/bin/sh
# What a fresh clone and both images install; `make setup` and the Dockerfiles call it, so that each tries the other's.
#
#   docker/install.sh packages   .venv, and in it what requirements.lock names (PYTHON: which interpreter)
#   docker/install.sh decm       decm itself, editable
set -eu
cd -P "$(dirname "$0")/.."
if test -L .venv; then
  echo ".venv is a link to $(readlink .venv), another checkout's environment, in which nothing is installed from here." >&2
  echo "Work with it as it is, or remove the link to have one of this checkout's own." >&2
  exit 2
fi
unset PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1

case "${1-}" in
  packages)
    test -x .venv/bin/python || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check uv
    .venv/bin/uv pip sync -q -p .venv/bin/python requirements.lock
    ;;
  decm)
    .venv/bin/uv pip install -q -p .venv/bin/python --no-deps -e .
    ;;
  *)
    echo "usage: docker/install.sh packages | decm" >&2
    exit 2
    ;;
esac
