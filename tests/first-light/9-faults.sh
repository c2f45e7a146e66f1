# 9: kill -9. Sourced by tests/first-light.sh.

containers_of() { k get pods -l "app=$1" -o 'jsonpath={.items[*].status.containerStatuses[*].containerID}'; }
name_resolves() { get_in_pod "$(any_pod client)" http://backend:3306/; }
survives_kill() {
    local before after pid; before=$(containers_of backend); pid=$(server_pid)
    [ -n "$before" ] && [ -n "$pid" ] || { because "no containers or no pid"; return 1; }
    local address; address=$(backend_url)
    kill -9 "$pid"
    fetch -f "$address" >/dev/null || { because "the pods do not answer without the server"; ondol up >/dev/null 2>&1; return 1; }
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up")"; return 1; }
    within 5 name_resolves || return 1
    within 50 ready_is deployment/backend 3 || return 1
    after=$(containers_of backend); equals "$after" "$before"
}
keeps_what_it_acknowledged() {
    k create configmap kept --from-literal=warm=yes >/dev/null || return 1
    kill -9 "$(server_pid)"
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 3 "$scratch/up" | tr '\n' ' ')"; return 1; }
    value_is configmap/kept '{.data.warm}' yes
}
point_9() {
    point 9.kill survives_kill
    point 9.acknowledged keeps_what_it_acknowledged
}
