#!/usr/bin/env bash
# tpu_pod.sh NAME ZONE ARGUMENTS...: copies the code to every host of a TPU pod slice, installs it, and starts
# run.py with the arguments on all of them at once.
#
#     scripts/tpu_pod.sh my-v5e-16 us-west4-a --config=configs/multitrain.py --workdir=/mnt/shared/runs/multitrain --config.data_root=gs://BUCKET/data
#
# Hosts have processors enough: 4 chips train B 32x3 at 270 (v5e) to 640 (v5p) clips/s, of 11 ms each from JPEG records,
# which is 3 to 7 of their 112 to 208. One process for two of them reads, see --config.input.num_processes (docs/data.md).
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 NAME ZONE ARGUMENTS_OF_RUN_PY..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$root" archive --format=tar.gz --output="$archive" HEAD

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}
gcloud compute tpus tpu-vm scp "$archive" "$name:multitrain_jax.tar.gz" --zone="$zone" --worker=all
on_all_hosts "mkdir -p multitrain_jax && tar -xzf multitrain_jax.tar.gz -C multitrain_jax && \
  cd multitrain_jax && python3 -m venv .venv && .venv/bin/pip install --quiet -e .[tpu]"
on_all_hosts "cd multitrain_jax && .venv/bin/python run.py --multi_host $(printf '%q ' "$@")"
