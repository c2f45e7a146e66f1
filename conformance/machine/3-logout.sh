# 3: who types `ondol up` and logs out. The machine ends whatever a session leaves behind. Sourced by run.sh.

log_in() { timeout 300 ssh -q -o BatchMode=yes -o StrictHostKeyChecking=no root@127.0.0.1 "export KUBECONFIG=/root/by-hand; $*"; }
by_hand() { KUBECONFIG=/root/by-hand "$@"; }
hand_is_ready() { equals "$(by_hand k get pod hand -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" True; }
no_session() { [ -z "$(loginctl list-sessions --no-legend)" ] || because "$(loginctl list-sessions --no-legend)"; }
session_is_real() { has "$(log_in 'echo "$XDG_SESSION_ID $(cat /proc/self/cgroup)"')" session-; }
# What stays in the session ends with it: the test would show nothing otherwise.
session_is_cleared() {
    log_in 'setsid sleep 4321 >/dev/null 2>&1 </dev/null &' && within 60 no_session || return 1
    ! pgrep -f 'sleep 4321' || because "the machine lets a session's processes live"
}
up_by_hand() {
    log_in '/usr/local/bin/ondol --instance hand up && /usr/local/bin/kubectl run hand --image=ondol.local/echo:v1' && within 120 hand_is_ready
}
logout_touches_nothing() {
    local server; server=$(cat /run/ondol/hand/lock)
    within 60 no_session && is_ready hand && hand_is_ready || return 1
    equals "$(cat /run/ondol/hand/lock)" "$server" && equals "$(by_hand k get pod hand -o 'jsonpath={.status.containerStatuses[0].restartCount}')" 0
}
wiped_by_hand() {
    log_in /usr/local/bin/ondol --instance hand down --wipe --yes || return 1
    local left; left=$(find /sys/fs/cgroup /run/ondol /var/lib/ondol -path '*hand*'; pgrep -af 'instance [h]and')
    [ -z "$left" ] && [ ! -e /root/by-hand ] || because "left: $left"
}
logout() {
    point logout.session session_is_real
    point logout.cleared session_is_cleared
    point logout.up up_by_hand
    point logout.untouched logout_touches_nothing
    point logout.wiped wiped_by_hand
}
