#!/usr/bin/env bash
# local_processes.sh N COMMAND...: N processes of one run on this machine, each with the flags that let them find each
# other. Ends when all have ended, with the exit code of the first of them that failed.
#
#     scripts/local_processes.sh 2 python run.py --config=configs/quickstart.py --workdir=runs/two
#
# One process drives all GPUs of a machine, so this serves only to try out a run of several machines.
set -uo pipefail
if [ $# -lt 2 ] || ! [ "$1" -gt 0 ] 2>/dev/null; then
  echo "usage: $0 NUMBER COMMAND...    (for example: $0 2 python run.py --config=... --workdir=...)" >&2
  exit 2
fi
number=$1
shift
address=localhost:${PORT:-$((20000 + RANDOM % 12000))} # below those that Linux gives to others meanwhile
processes=()
for ((i = 0; i < number; i++)); do
  "$@" --coordinator_address="$address" --num_processes="$number" --process_id="$i" &
  processes+=($!)
done
trap 'kill -TERM "${processes[@]}" 2>/dev/null' INT TERM
code=0
for process in "${processes[@]}"; do
  wait "$process"
  ended=$?
  if [ $ended -ne 0 ] && [ $code -eq 0 ]; then
    code=$ended
  fi
done
exit $code
