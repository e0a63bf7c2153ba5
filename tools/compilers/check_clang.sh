#!/usr/bin/env bash
# Builds the CPU library with Clang, for one instruction set, and runs the operator's grid with it.
#   tools/compilers/check_clang.sh [COMPILER]
# Without COMPILER, the newest clang++ on the PATH; where there is none and this is root on Debian or its like, clang-19
# is installed, and elsewhere nothing is checked, with a word. From the environment: PYTHON, which has torch and
# requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
python=$(realpath --no-symlinks "$(command -v "$python")")
PATH=$(dirname "$python"):$PATH # cmake, ninja

newest() { compgen -c clang++ | grep -xE 'clang\+\+(-[0-9]+)?' | sort --version-sort --unique | tail -n 1 || true; }
compiler=${1:-$(newest)}
if [ -z "$compiler" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends clang-19 > /dev/null || true
  compiler=$(newest)
fi
if [ -z "$compiler" ]; then
  echo "check_clang: skipped: no clang++ on the PATH, and none could be installed (Debian: apt install clang-19)"
  exit 0
fi

case $(uname -m) in
  x86_64 | amd64) instruction_set=avx2 ;;
  *) instruction_set=baseline ;;
esac
folder=build/$(basename "$compiler")
mkdir -p build
# libstdc++ 12 calls in its own stable_sort what it has marked as deprecated, which only GCC keeps to itself.
warnings="-Werror -Wno-deprecated-declarations"
cmake -S . -B "$folder" -G Ninja -DPython_EXECUTABLE="$python" -DCMAKE_CXX_COMPILER="$compiler" -DDELTACONV_CUDA=off \
  -DDELTACONV_CPU_ISAS=$instruction_set -DCMAKE_CXX_FLAGS="$warnings" > "$folder.log" || { cat "$folder.log"; exit 1; }
cmake --build "$folder" > "$folder.log" || { cat "$folder.log"; exit 1; }
grid=$("$python" tests/kernels/sanitizers/child.py "$folder/native" grid)
[ "$grid" = $instruction_set ] # the grid prints what computed it
echo "check_clang: $("$compiler" --version | head -n 1): built for $grid without a warning, and the grid keeps its error budgets"
