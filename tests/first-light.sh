#!/usr/bin/env bash
# What a user does with a fresh house, with real kubectl: every point prints "PASS name" or "FAIL name: reason".
#
#   ONDOL=path/to/ondol KUBECTL=path/to/kubectl tests/first-light.sh [POINT...]
#
# With points named ("3", "4"), only those run, after the first, which starts the house; 4 and 7 need 2 and 3, the
# later ones need 2, 3, 4 and 7. It runs in network, mount and process namespaces of its own, as an instance of its own, and
# leaves nothing behind. Waits are bounded, and five times as long as the behaviour may take.
# tests/first-light.points says which points must pass.
#
# FIRST_LIGHT_FORM says how the house stands (tests/first-light/forms): "together" is `ondol up`, "apart" is `ondol
# server` and `ondol agent` as two processes in two network namespaces.
set -u

: "${ONDOL:?set ONDOL to the ondol binary}" "${KUBECTL:?set KUBECTL to a kubectl}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ "${FIRST_LIGHT_INSIDE:-}" != yes ]; then
    # Not `ip netns exec`: that would mount another /sys and hide the cgroups. With process ids of our own, all
    # processes that there are in the end are ours, and none outlives the script.
    FIRST_LIGHT_INSIDE=yes exec unshare --net --pid --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi
ip link set lo up

for part in "$here"/first-light/*.sh; do
    # shellcheck source=/dev/null
    . "$part"
done
trap clean_up EXIT

points=("$@")
[ $# -gt 0 ] || points=(2 3 4 5 6 7 8 11 9 10 last split)
raise_house || exit 1
point_1
for number in "${points[@]}"; do
    [ "$number" = 1 ] || "point_$number"
done
exit $((failed > 0))
