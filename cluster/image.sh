#!/bin/bash
# Builds the image, or checks it, with docker; where no docker answers with buildah.
#
#   image.sh build [WORDS]    WORDS go to the builder: --build-arg PIP_EXTRA_INDEX_URL=..., --volume ...
#   image.sh check            small runs of the quickstart as containers of several platforms start them
#
# Variables: TAG names the image (default: fusiondistill:VERSION), BASE another base image (see Dockerfile).
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' fusiondistill/__init__.py)
TAG=${TAG:-fusiondistill:$version}
FOREIGN=12345
USER_ID=1000

builder() {
  if docker version >/dev/null 2>&1; then
    echo docker
  elif command -v buildah >/dev/null; then
    echo buildah
  else
    echo "building and checking the image takes docker or buildah:" \
      "start docker, or install buildah (on Debian: apt-get install buildah)" >&2
    exit 1
  fi
}

build() {
  local words=(--file cluster/Dockerfile --tag "$TAG" ${BASE:+--build-arg "BASE=$BASE"} "$@" .)
  case $builder in
  docker) docker build "${words[@]}" ;;
  buildah) buildah build --ignorefile cluster/Dockerfile.dockerignore "${words[@]}" ;;
  esac
}

# Runs COMMAND in the image. The home folder lasts from call to call, /tmp is new and 64 MB of shared memory are docker's
# default. in_image USER:GROUP HOME writable|read-only COMMAND...
in_image_docker() {
  local user=$1 home=$2 at=$kept:/home/ray read_only=
  if [[ $3 == read-only ]]; then read_only=--read-only at+=:ro; fi
  shift 3
  # shellcheck disable=SC2086
  docker run --rm --user "$user" --env HOME="$home" --env OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" \
    --tmpfs /tmp $read_only --volume "$at" "$TAG" "$@"
}

# Buildah's own `run` knows no read-only root, and some machines allow it no container: mounts and chroot do.
in_image_buildah() {
  local root variables
  root=$(buildah mount "$kept")
  mapfile -t variables < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$kept" | grep .)
  # shellcheck disable=SC2016
  unshare --mount --pid --fork --kill-child bash -euc '
    root=$1 user=$2 mode=$3
    shift 3
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for name in null zero full random urandom tty; do
      touch "$root/dev/$name"
      mount --bind "/dev/$name" "$root/dev/$name"
    done
    mkdir "$root/dev/shm"
    mount -t tmpfs -o mode=1777,size=64m,noexec,nosuid,nodev shm "$root/dev/shm"
    mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmp "$root/tmp"
    for name in hosts hostname resolv.conf; do
      touch "$root/etc/$name"
      mount --bind "/etc/$name" "$root/etc/$name"
    done
    if [[ $mode == read-only ]]; then mount -o remount,bind,ro "$root"; fi
    exec chroot --userspec="$user" --groups= "$root" env --ignore-environment --chdir=/home/ray "$@"
  ' bash "$root" "$1" "$3" "${variables[@]}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HOME="$2" tini -- "${@:4}"
}

# A run through Ray of every kind of stage that the quickstart has, each as small as it can be.
SMALL=(fusiondistill run quickstart --store /tmp/store --set data.train_images=200 --set data.test_images=30
  --set 'degradations=[jpeg, blur]' --set 'methods=[base, fusiondistill]' --set evaluation.every=200
  --set evaluation.expert_matrix=false --set search.trials=1 --set search.epochs=1
  --set base.epochs=1 --set expert.epochs=1 --set fusiondistill.epochs=1)

# try NAME USER:GROUP HOME writable|read-only
try() {
  local began=$SECONDS output
  # shellcheck disable=SC2016
  if output=$("in_image_$builder" "$2" "$3" "$4" sh -c 'id && "$@" && test -s /tmp/store/report/table.md' sh \
    "${SMALL[@]}" 2>&1) &&
    [[ $output != *Traceback* ]]; then
    echo "$1: passed in $((SECONDS - began)) s"
  else
    echo "$1: FAILED after $((SECONDS - began)) s"
    tail -n 30 <<<"$output"
    failed=1
  fi
}

check() {
  case $builder in
  docker)
    kept=$(docker volume create)
    trap 'docker volume rm "$kept" >/dev/null' EXIT
    ;;
  buildah)
    if [[ $(id -u) != 0 ]]; then
      echo "with buildah the check mounts the image: run it as root" >&2
      exit 1
    fi
    kept=$(buildah from --pull-never "$TAG")
    trap 'buildah rm "$kept" >/dev/null' EXIT
    ;;
  esac
  failed=0
  try "uid $USER_ID" "$USER_ID:0" /home/ray writable
  "in_image_$builder" "$USER_ID:0" /home/ray writable stat --format "%n is of uid %u, mode %a" /home/ray/.ray/auth_token
  try "foreign uid $FOREIGN, group 0, beside that home" "$FOREIGN:0" /home/ray writable
  try "read-only root and home" "$USER_ID:0" /home/ray read-only
  try "foreign uid $FOREIGN, read-only root and home" "$FOREIGN:0" /home/ray read-only
  try "HOME=/" "$USER_ID:0" / writable
  return "$failed"
}

case ${1:-} in
build | check)
  builder=$(builder)
  "$@"
  ;;
*)
  sed -n 's/^# \?//p; /^set/q' "$0" | tail -n +2
  exit 2
  ;;
esac
