#!/usr/bin/env bash
# One call of a lease of a GPU (docs/training.md, "A lease of a big GPU"): benchmarks/lease.sh SECONDS [options of `nncodec train`]
#
# Takes pictures from .gpu and wheels from .whl, adds them to what earlier calls brought, trains for SECONDS or, in a later
# call, goes on (the options of the first hold), and leaves in $OUT what comes back: weights of the moving average in parts
# of 15 MiB, recipe and log. Everything else stays in $LEASE, since $OUT is emptied with every call.
set -euo pipefail
seconds=$1
shift
lease=${LEASE:-/tmp/lease}
run=$lease/run
mkdir -p "$lease/data" "$lease/site"
export PYTHONPATH=$lease/site:$PWD PYTHONUNBUFFERED=1
if compgen -G ".whl/*.whl" >/dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$lease/site" .whl/*.whl
fi
if compgen -G ".gpu/*" >/dev/null; then cp -n .gpu/* "$lease/data/"; fi
if [ -e "$run/checkpoint.pt" ]; then set -- --resume; else set -- "$lease/data" "$@"; fi
# A stopped run exits with 130 and has written its checkpoint.
timeout -s TERM "$seconds" python3 -m nncodec train "$@" -o "$run" 2>&1 | tr '\r' '\n' | grep -v '^$' | tail -n 40 || true
weights=("$run"/*.safetensors)
if [ ! -e "${weights[0]}" ]; then
  python3 -m nncodec export "$run" -o "$lease/stopped.safetensors" --pictures 8 --force
  weights=("$lease/stopped.safetensors")
fi
split -b 15M -d "${weights[0]}" "$OUT/$(basename "${weights[0]}")."
cp "$run/recipe.toml" "$run/log.jsonl" "$OUT/"
