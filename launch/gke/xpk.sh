#!/bin/bash
# Submits a training run on one or several TPU slices of a GKE cluster through xpk (github.com/AI-Hypercomputer/xpk).
#
#   launch/gke/xpk.sh --cluster=NAME --project=ID --zone=us-west4-a --workload=finetune-7b --type=v5litepod-64 \
#     --slices=2 --image=us-docker.pkg.dev/ID/mmfuser/mmfuser_jax [--dry_run] -- \
#     launch/train.py --config=configs/finetune.py:7b --workdir=/mnt/runs/finetune_7b --config.mesh.data=2
#
# The image is built from launch/gke/Dockerfile. The cluster must mount a folder that all hosts see at /mnt/runs (xpk
# storage attach). With several slices --config.mesh.data must be a multiple of their number: only the data axis crosses
# them. --distributed is added to the command. launch/gke/jobset.yaml says the same without xpk.
set -euo pipefail

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; }

cluster='' project='' zone='' workload='' type='' slices=1 image='' dry_run=''
while (($#)); do
  case $1 in
    --cluster=*) cluster=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --workload=*) workload=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --help) usage; exit ;;
    --) shift; break ;;
    *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
  esac
  shift
done
for needed in cluster project zone workload type image; do
  [[ -n ${!needed} ]] || { echo "error: --$needed is missing; see --help" >&2; exit 2; }
done
(($#)) || { echo "error: give the command to run after --" >&2; exit 2; }

printf -v command '%q ' python "$@" --distributed
submit=(
  xpk workload create --cluster="$cluster" --project="$project" --zone="$zone" --workload="$workload"
  --tpu-type="$type" --num-slices="$slices" --docker-image="$image"
  --command="eval \"\$(python -m mmfuser_jax.xla_flags tpu)\" && $command"
)
if [[ -n $dry_run ]]; then printf '%q ' "${submit[@]}"; echo; else exec "${submit[@]}"; fi
