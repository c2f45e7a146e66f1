# 9: kill -9, and what cannot work. Sourced by tests/first-light.sh.

containers_of() { k get pods -l "app=$1" -o 'jsonpath={.items[*].status.containerStatuses[*].containerID}'; }
name_resolves() { get_in_pod "$(any_pod client)" http://backend:3306/; }
# lives_through COMMAND...: what the command ends (server, agent or both) comes back by `ondol up`; pods notice nothing.
lives_through() {
    local before address; before=$(containers_of backend); address=$(backend_url)
    [ -n "$before" ] || { because "there are no containers"; return 1; }
    start_load "$address"
    "$@" || { stop_load; return 1; }
    fetch -f "$address" >/dev/null || { stop_load; because "the pods do not answer"; ondol up >/dev/null 2>&1; return 1; }
    ondol up >"$scratch/up" 2>&1 || { stop_load; because "$(tail -n 2 "$scratch/up")"; return 1; }
    within 5 name_resolves || { stop_load; return 1; }
    stop_load || return 1
    within 50 ready_is deployment/backend 3 || return 1
    equals "$(containers_of backend)" "$before"
}
survives_kill() {
    local number
    for number in $(seq "$(kill_sets | grep -c .)"); do
        # shellcheck disable=SC2046
        lives_through kill -9 $(kill_sets | sed -n "${number}p") || return 1
    done
}
hook_says() { equals "$(k exec hooked -- /bin/busybox cat /tmp/hook | tr '\n' ' ')" "$1"; }
# The hook goes with who told it; the next one tells it again, and the pod is not ready before.
hook_is_told_again() {
    k apply -f "$here/first-light/hook.yaml" >/dev/null && within 50 hook_says 'begun ' || return 1
    # shellcheck disable=SC2046
    kill -9 $(kill_sets | tail -n 1)
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up")"; return 1; }
    within 50 hook_says 'begun begun ' || return 1
    value_is pod/hooked '{.status.containerStatuses[0].ready}' false || return 1
    k exec hooked -- /bin/busybox touch /tmp/go && ready_pod hooked && hook_says 'begun begun ended ' || return 1
    value_is pod/hooked '{.status.containerStatuses[0].restartCount}' 0 && k delete pod hooked --wait=false >/dev/null
}
# What `systemctl restart` does with our unit: SIGTERM to the main process alone, and a new one in the foreground.
restart_of_the_unit() {
    local pids; pids=$(kill_sets | tail -n 1)
    # shellcheck disable=SC2086
    kill -TERM $pids
    within 45 have_ended "$pids" && up_in_foreground
}
survives_restart_of_the_unit() { lives_through restart_of_the_unit; }
have_ended() {
    local pid
    for pid in $1; do [ ! -d "/proc/$pid" ] || return 1; done
}
keeps_what_it_acknowledged() {
    k create configmap kept --from-literal=warm=yes >/dev/null || return 1
    kill -9 "$(server_pid)"
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 3 "$scratch/up" | tr '\n' ' ')"; return 1; }
    value_is configmap/kept '{.data.warm}' yes
}
# Whoever watches makes the end take a while: `up` waits for it, and then starts.
starts_while_it_ends() {
    local before; before=$(server_pid)
    background "$KUBECTL" get pods --watch
    within 15 background_says . || { end_background; return 1; }
    kill -TERM "$before"
    ondol up >"$scratch/up" 2>&1; local done=$?
    end_background
    [ $done -eq 0 ] || { because "$(tail -n 2 "$scratch/up" | tr '\n' ' ')"; return 1; }
    [ "$(server_pid)" != "$before" ] || { because "it is the old process: $(cat "$scratch/up")"; return 1; }
    is_up "$instance" && within 50 ready_is deployment/backend 3
}
pod_process_of() { ps -e -o pid=,args= | awk -v name="ondol-pod $1" '$2 " " $3 == name { print $1 }'; }
lost_sandbox_comes_back() {
    local pod uid count process containers
    pod=$(any_pod backend); uid=$(value "pod/$pod" '{.metadata.uid}')
    count=$(value "pod/$pod" '{.status.containerStatuses[0].restartCount}')
    process=$(pod_process_of "$uid"); containers=$(ps -o pid= --ppid "$process" | tr '\n' ' ')
    [ -n "$process" ] && [ -n "$containers" ] || { because "the pod has no process of ours or no containers"; return 1; }
    kill -9 "$process"
    within 5 have_ended "$containers" || return 1
    within 50 restarts_are_counted "$pod" "$count" || return 1
    within 50 ready_is deployment/backend 3 || return 1
    value_is "pod/$pod" '{.metadata.uid}' "$uid"
}

# The rest is an instance that cannot start: one sentence that says what to do, and nothing half done.
refuses() {
    local hint=$1 left; shift
    "$@" >"$scratch/refused" 2>&1 && { because "it was taken: $(tail -n 1 "$scratch/refused")"; return 1; }
    equals "$(grep -c . "$scratch/refused")" 1 || { because "not one sentence: $(head -c 400 "$scratch/refused" | tr '\n' ' ')"; return 1; }
    has "$(cat "$scratch/refused")" "$hint" || return 1
    left=$(traces_of "$instance-x")
    [ -z "$left" ] || because "left behind: $left"
}
doomed() { timeout 60 "$ONDOL" --instance "$instance-x" up "$@"; }
without_root() {
    # By descriptor, for another user may not be allowed into the folder of the binary.
    refuses "must run as root" setpriv --reuid=65534 --regid=65534 --clear-groups /proc/self/fd/9 --instance "$instance-x" up 9<"$ONDOL"
}
without_powers() {
    refuses CAP_NET_ADMIN setpriv --bounding-set=-net_admin,-sys_admin --inh-caps=-net_admin,-sys_admin \
        "$ONDOL" --instance "$instance-x" up
}
busy_port() {
    "$KUBECTL" proxy --port=18443 >/dev/null 2>&1 & listener=$!
    within 15 port_is_taken && refuses --api-port doomed --api-port 18443
    local done=$?
    kill "$listener"; wait "$listener" 2>/dev/null; listener=""
    return $done
}
port_is_taken() { ss -ltn | grep -q 127.0.0.1:18443; }
on_an_overlay() {
    mkdir -p "$scratch/over/"{lower,upper,work,merged}
    mount -t overlay overlay -o "lowerdir=$scratch/over/lower,upperdir=$scratch/over/upper,workdir=$scratch/over/work" "$scratch/over/merged" || return 1
    refuses --data-dir doomed --data-dir "$scratch/over/merged/data"
    local done=$?
    [ ! -e "$scratch/over/merged/data" ] || { because "the folder was left"; done=1; }
    umount "$scratch/over/merged"
    return $done
}
without_cgroups() {
    refuses "mount cgroup2" unshare --mount sh -c 'umount -R -l /sys/fs/cgroup && exec "$@"' sh "$ONDOL" --instance "$instance-x" up
}
taken_range() {
    ip link add taken type bridge && ip address add 10.77.0.1/24 dev taken && ip link set taken up || return 1
    refuses --pod-cidr doomed --pod-cidr 10.77.0.0/16 --service-cidr 10.78.0.0/16
    local done=$?
    ip link delete taken
    return $done
}
on_a_full_disk() {
    mkdir "$scratch/full" && mount -t tmpfs -o size=2m none "$scratch/full" || return 1
    head -c 1900k /dev/zero >"$scratch/full/others"
    mkdir "$scratch/full/data"
    refuses "is full" doomed --data-dir "$scratch/full/data"
    local done=$?
    [ -z "$(ls -A "$scratch/full/data")" ] || { because "left: $(ls -A "$scratch/full/data")"; done=1; }
    umount "$scratch/full"
    return $done
}
on_a_read_only_disk() {
    mkdir "$scratch/fixed" && mount -t tmpfs -o ro none "$scratch/fixed" || return 1
    refuses --data-dir doomed --data-dir "$scratch/fixed/data"
    local done=$?
    umount "$scratch/fixed"
    return $done
}
# A disk in memory holds overlays, and so it will do.
on_a_disk_in_memory() {
    mkdir "$scratch/memory" && mount -t tmpfs -o size=200m none "$scratch/memory" || return 1
    prints Ready doomed --no-kubeconfig --data-dir "$scratch/memory/data"
    local done=$?
    timeout 60 "$ONDOL" --instance "$instance-x" down --wipe --yes >"$scratch/down" 2>&1 || { because "$(tail -n 1 "$scratch/down")"; done=1; }
    [ -z "$(ls -A "$scratch/memory")" ] || { because "left: $(ls -A "$scratch/memory")"; done=1; }
    umount "$scratch/memory"
    return $done
}
# Nothing is begun for which kubectl could not be told of.
kubeconfig_of_no_use() {
    mkdir "$scratch/others" && mount -t tmpfs -o ro none "$scratch/others" || return 1
    echo '[]' >"$scratch/no-kubeconfig"
    printf 'apiVersion: v1\nkind: Config\n' >"$scratch/of-nobody" && chown nobody "$scratch/of-nobody" && chmod 600 "$scratch/of-nobody"
    refuses "set KUBECONFIG" env KUBECONFIG="$scratch/others/config" "$ONDOL" --instance "$instance-x" up \
        && refuses "set KUBECONFIG" env KUBECONFIG="$scratch" "$ONDOL" --instance "$instance-x" up \
        && refuses "is left as it is" env KUBECONFIG="$scratch/no-kubeconfig" "$ONDOL" --instance "$instance-x" up \
        && refuses "check that it is yours" env KUBECONFIG="$scratch/of-nobody" setpriv --bounding-set=-dac_override,-dac_read_search \
            --inh-caps=-dac_override,-dac_read_search "$ONDOL" --instance "$instance-x" up
    local done=$?
    umount "$scratch/others"
    return $done
}
# Root's home is where it always is. Another /root hides the user's own; the program lies elsewhere, for it is found again
# by its path.
without_a_home() {
    cp "$ONDOL" "$scratch/ondol-copy" || return 1
    # shellcheck disable=SC2016
    prints "as it should" unshare --mount env -u HOME -u KUBECONFIG bash -c '
        mount -t tmpfs none /root && "$0" --instance "$1" up && grep -q "current-context: ondol-$1" /root/.kube/config || exit 1
        "$0" --instance "$1" down --wipe --yes && [ ! -e /root/.kube ] && echo as it should' "$scratch/ondol-copy" "$instance-x"
}
# One letter in the middle of the log: where, and what to do about it.
damaged_log() {
    doomed --no-kubeconfig >"$scratch/up" 2>&1 && timeout 60 "$ONDOL" --instance "$instance-x" down >"$scratch/down" 2>&1 \
        && refuses_damage
    local done=$?
    timeout 60 "$ONDOL" --instance "$instance-x" down --wipe --yes >"$scratch/down" 2>&1
    return $done
}
refuses_damage() {
    local log at; log=$(grep -rl kube-root-ca.crt "/var/lib/ondol/$instance-x/store" | head -n 1)
    at=$(grep -abo kube-root-ca.crt "$log" | head -n 1 | cut -d: -f1)
    [ -n "$at" ] || { because "nothing is in the log"; return 1; }
    printf 'X' | dd of="$log" bs=1 seek="$at" conv=notrunc status=none
    doomed --no-kubeconfig >"$scratch/refused" 2>&1 && { because "it was taken"; return 1; }
    grep -v '^✓' "$scratch/refused" >"$scratch/said"
    equals "$(grep -c . "$scratch/said")" 1 && has "$(cat "$scratch/said")" "$log" && has "$(cat "$scratch/said")" "ondol store salvage"
}
point_9() {
    point 9.kill survives_kill
    point 9.acknowledged keeps_what_it_acknowledged
    point 9.hook hook_is_told_again
    point 9.unit-restart survives_restart_of_the_unit
    [ "$form" = apart ] || point 9.up-while-ending starts_while_it_ends
    point 9.pod-process lost_sandbox_comes_back
    point 9.no-root without_root
    point 9.no-powers without_powers
    point 9.busy-port busy_port
    point 9.no-place on_an_overlay
    point 9.no-cgroups without_cgroups
    point 9.taken-range taken_range
    point 9.full-disk on_a_full_disk
    point 9.read-only on_a_read_only_disk
    point 9.disk-in-memory on_a_disk_in_memory
    point 9.kubeconfig kubeconfig_of_no_use
    point 9.no-home without_a_home
    point 9.damaged-log damaged_log
}
