#!/bin/bash
# Runs a launch command on every host of a Cloud TPU slice, which is created if it is not there.
#
#   launch/tpu_pod.sh --name=mmfuser --zone=us-west4-a --type=v5litepod-64 --version=v2-alpha-tpuv5-lite \
#     --nfs=10.0.0.2:/runs [--spot] [--dry_run] -- \
#     launch/train.py --config=configs/finetune.py:7b --workdir=/mnt/runs/finetune_7b
#
# The committed state of this repository goes to all hosts. --distributed is added to the command: JAX finds the other
# hosts by the metadata of the slice. The workdir must be a folder that all hosts see, such as a Filestore share (--nfs,
# mounted at /mnt/runs). The log of the first host is followed; Ctrl-C stops following, not the run. Run again, it
# resumes. Several slices: launch/gke. --dry_run prints the commands and runs none.
set -euo pipefail

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; }

name='' zone='' type='' version='' nfs='' spot='' dry_run=''
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --nfs=*) nfs=${1#*=} ;;
    --spot) spot=--spot ;;
    --dry_run) dry_run=1 ;;
    --help) usage; exit ;;
    --) shift; break ;;
    *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
  esac
  shift
done
for needed in name zone type version; do
  [[ -n ${!needed} ]] || { echo "error: --$needed is missing; see --help" >&2; exit 2; }
done
(($#)) || { echo "error: give the command to run after --" >&2; exit 2; }

run() {
  if [[ -n $dry_run ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}
tpu=(gcloud compute tpus tpu-vm)
on_all() { run "${tpu[@]}" ssh "$name" --zone="$zone" --worker=all --command="$1"; }

if [[ -n $dry_run ]] || ! "${tpu[@]}" describe "$name" --zone="$zone" >/dev/null 2>&1; then
  run "${tpu[@]}" create "$name" --zone="$zone" --accelerator-type="$type" --version="$version" ${spot:+"$spot"}
fi

cd "$(dirname "$0")/.."
run git archive --output=/tmp/mmfuser_jax.tar HEAD
run "${tpu[@]}" scp /tmp/mmfuser_jax.tar "$name":/tmp/ --zone="$zone" --worker=all

mount=''
if [[ -n $nfs ]]; then
  mount="sudo apt-get -q install -y nfs-common && sudo mkdir -p /mnt/runs && (mountpoint -q /mnt/runs || sudo mount $nfs /mnt/runs) && "
fi
# The Python of the image may be older than 3.11; uv brings its own.
on_all "${mount}mkdir -p ~/mmfuser_jax && tar -xf /tmp/mmfuser_jax.tar -C ~/mmfuser_jax && cd ~/mmfuser_jax && \
python3 -m pip install -q --user uv && python3 -m uv venv -q --allow-existing --python 3.12 .venv && \
python3 -m uv pip install -q --python .venv/bin/python --editable '.[tpu]'"

printf -v command '%q ' "$@" --distributed
on_all "cd ~/mmfuser_jax && eval \"\$(.venv/bin/python -m mmfuser_jax.xla_flags tpu)\" && \
(nohup .venv/bin/python $command> ~/run.log 2>&1 &)"
run "${tpu[@]}" ssh "$name" --zone="$zone" --worker=0 --command='tail -n +1 -F ~/run.log'
