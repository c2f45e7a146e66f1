#!/usr/bin/env bash
# What a real machine does to Ondol. Runs inside of the machine that `cargo xtask suite machine` boots, at each boot, as
# root: each boot has a part of its own, the next one in the list. Every point prints "PASS name" or "FAIL name: reason"
# to the second serial line; what is behind a failure goes to the console. conformance/machine.ledger says what must pass.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=/var/lib/suite
scratch=/run/suite
mkdir -p "$state" "$scratch"
exec >/dev/ttyS1 2>/dev/ttyS0 </dev/null
export KUBECONFIG=/root/.kube/config

for part in "$here"/[0-9]*.sh "$here/frame.sh"; do
    # shellcheck source=/dev/null
    . "$part"
done

boots=(first after_reboot after_power_cut)
number=$(cat "$state/boot" 2>/dev/null || echo 0)
echo $((number + 1)) >"$state/boot"
sync "$state/boot"
if [ "$number" -lt "${#boots[@]}" ]; then
    "boot_${boots[$number]}"
else
    fail "machine.boots" "the machine began once more than it was told to"
fi
# A part that goes on after a reboot does not come here.
echo END
systemctl poweroff
