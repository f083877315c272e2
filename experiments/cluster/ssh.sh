#!/bin/bash
# Trains on hosts that ssh reaches, one process on each. The first host is process 0: it has the run directory, writes and shows.
#
#     experiments/cluster/ssh.sh "node1 node2" --config configs/imagenet.py:members=7 --workdir runs/ensemble
#
# The project is in the same folder on every host, the dataset too. Ctrl-C here saves and stops.
set -u
read -ra hosts <<<"$1"
shift
port=${PORT:-9000}
command=$(printf '%q ' "${PYTHON:-.venv/bin/python}" -m alexnet_jax.train "$@" --coordinator "${hosts[0]}:$port" --processes "${#hosts[@]}")
processes=()
for number in "${!hosts[@]}"; do
    # -tt: a terminal that goes away, as after Ctrl-C here, is SIGHUP there, which saves and stops.
    ${SSH:-ssh -tt} "${hosts[$number]}" "cd $(printf '%q' "$PWD") && exec $command --process $number" </dev/null &
    processes+=($!)
done
trap 'kill "${processes[@]}" 2>/dev/null' INT TERM
code=0
for process in "${processes[@]}"; do
    until wait "$process"; do
        code=$?
        kill -0 "$process" 2>/dev/null || break # else a signal ended the wait, not the process
    done
done
exit "$code"
