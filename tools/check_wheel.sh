#!/usr/bin/env bash
# The library beside another torch, in an environment of its own: installed, loaded for real, and tested.
#   tools/check_wheel.sh 2.11.0             builds there, with that torch, without isolation
#   tools/check_wheel.sh 2.14.1 WHEEL       takes a wheel that was built elsewhere
#   tools/check_wheel.sh --quick 2.11.0     the tests of backends and libraries alone, for CI
# DELTACONV_CUDA_ARCHS=9.0 builds for one architecture, PYTHON=python3.13 takes another Python. Needs no GPU: beside a
# torch with CUDA, all but the GPU is there.
set -euo pipefail
quick=
if [ "${1:-}" = --quick ]; then quick=1; shift; fi
torch_version=${1:?"usage: tools/check_wheel.sh [--quick] TORCH_VERSION [WHEEL]"}
wheel=${2:+$(realpath "$2")}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pinned() { grep -E "^($1)==" "$root/requirements.txt" > "$work/pinned.txt"; echo "--requirement=$work/pinned.txt"; }

"${PYTHON:-python3}" -m venv "$work/venv"
python=$work/venv/bin/python
pip="$python -m pip --quiet --disable-pip-version-check"
$pip install "torch==$torch_version" numpy $(pinned 'onnxruntime|onnxscript|pytest|pytest-timeout|pytest-benchmark|hypothesis|expecttest')
if [ -z "$wheel" ]; then
  # Below 82: torch 2.11 asks for it.
  $pip install 'setuptools>=77,<82' $(pinned 'cmake|ninja|wheel')
  $pip wheel --no-build-isolation --no-deps --wheel-dir "$work" "$root"
  wheel=$(echo "$work"/*.whl)
fi
echo "wheel: $(basename "$wheel")  sha256: $(sha256sum "$wheel" | cut -c1-16)"
$pip install --no-deps "$wheel"

# A copy of the tests and of what they read and import, but not of the packages: these must be the installed ones.
mkdir -p "$work/run/tests"
cp -r "$root/tests/kernels" "$root/tests/cuda" "$work/run/tests/"
(cd "$root" && cp -r bench csrc docs tools CMakeLists.txt CMakePresets.json pyproject.toml "$work/run/")
cd "$work/run"

"$python" "$root/tools/assert_loaded.py"
if [ -n "$quick" ]; then
  "$python" -m pytest -q tests/kernels/test_backends.py tests/kernels/test_machine_check.py tests/cuda/test_library.py
else
  "$python" -m deltaconv_kernels --check
  "$python" -m pytest -q tests/kernels tests/cuda/test_library.py
fi
# To the end, though without a GPU every part can only say so.
PYTHON=$python "$root/tools/gpu_check.sh" --commit "wheel-check" --output "$work/gpu_check.json"
"$python" "$root/tools/assert_loaded.py" "$work/gpu_check.json"
