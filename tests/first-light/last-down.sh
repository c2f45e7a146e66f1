# Last: down, up again, wiped. Sourced by tests/first-light.sh.

restarts_are_counted() {
    [ "$(value "pod/$1" '{.status.containerStatuses[0].restartCount}')" -gt "$2" ] 2>/dev/null
}
comes_back() {
    local pod uid count; pod=$(any_pod backend); uid=$(value "pod/$pod" '{.metadata.uid}')
    count=$(value "pod/$pod" '{.status.containerStatuses[0].restartCount}')
    ondol down >"$scratch/down" 2>&1 || { because "$(tail -n 2 "$scratch/down")"; return 1; }
    ! k get --raw /readyz >/dev/null 2>&1 || { because "the API still answers"; return 1; }
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up")"; return 1; }
    value_is "pod/$pod" '{.metadata.uid}' "$uid" || return 1
    within 50 restarts_are_counted "$pod" "${count:-0}"
}
leaves_nothing() {
    ondol down --wipe --yes >"$scratch/down" 2>&1 || { because "$(tail -n 2 "$scratch/down" | tr '\n' ' ')"; return 1; }
    snapshot >"$scratch/after"
    # Others may use the machine meanwhile, and what was theirs may go: only what has come counts.
    diff "$scratch/before" "$scratch/after" | grep '^>' >"$scratch/left"
    [ ! -s "$scratch/left" ] || because "left behind: $(head -n 8 "$scratch/left" | tr '\n' ' ')"
}
wipes_a_dead_server() {
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up" | tr '\n' ' ')"; return 1; }
    kill -9 "$(server_pid)"
    leaves_nothing
}
point_last() {
    point 1.down-and-up comes_back
    point 1.wipe leaves_nothing
    point 1.wipe-dead wipes_a_dead_server
}
