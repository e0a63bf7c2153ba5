#!/usr/bin/env bash
# One call on a machine with a GPU: builds in place, tests, looks for bad memory accesses and races, profiles, measures,
# and leaves one JSON in bench/results/. Nothing is downloaded. `tools/gpu_check.sh --help` shows the options.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/python:$PWD/bench:$PWD/tools:$PWD/tools/triton_kernels${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
exec "$PYTHON" -m gpu_check "$@"
