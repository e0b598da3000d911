#!/usr/bin/env bash
# Measures what only a GPU can show, on a machine that need have nothing but python, torch and transformers:
#
#   benchmarks/gpu/run.sh --out DIR [PART[:SECONDS] ...]      `--help` has the rest
#
# AIS_WHEELS names a directory of wheels of what the machine lacks; they are installed beside its own packages, for this
# command alone. Everything is in DIR/gpu.json as soon as it is measured; the same command goes on where one was cut.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
path="$PWD/services:$PWD"
if [ -n "${AIS_WHEELS:-}" ]; then
  site="$(mktemp -d)"
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$AIS_WHEELS"/*.whl
  path="$path:$site"
fi
export PYTHONPATH="$path${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONUNBUFFERED=1
"$python" -m benchmarks.gpu "$@"
