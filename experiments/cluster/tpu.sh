#!/bin/bash
# Trains on all hosts of a Cloud TPU slice. JAX finds the coordinator and the number of each host; --processes is how many hosts there are.
#
#     experiments/cluster/tpu.sh my-tpu us-central2-b 4 --config configs/imagenet.py:members=7 --workdir /mnt/runs/ensemble
#
# The project is in ~/alexnet_jax on every host, installed by `pip install -e ".[tpu]"` into ~/alexnet_jax/.venv.
set -u
name=$1 zone=$2 hosts=$3
shift 3
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd ~/alexnet_jax && .venv/bin/python -m alexnet_jax.train $(printf '%q ' "$@") --processes $hosts"
