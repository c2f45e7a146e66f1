# 10: server and agent apart. Sourced by tests/first-light.sh; its forms are in tests/first-light/forms.

# What the agent is given is the identity of its node, and no more.
is_the_nodes_own_identity() {
    local given="/var/lib/ondol/$server/agents/$node.kubeconfig"
    prints "system:node:$node" k --kubeconfig "$given" auth whoami || return 1
    prints forbidden k_refused --kubeconfig "$given" get secrets -A || return 1
    prints forbidden k_refused --kubeconfig "$given" delete node "$node"
}
k_refused() { ! k "$@"; }
# Nobody is answered without TLS, nor with TLS and without a certificate, and there is no third way between the two.
speaks_only_https() {
    local api other; api=$(k config view --minify -o 'jsonpath={.clusters[0].cluster.server}' | grep -oE '[0-9]+$')
    for address in "$server_address:$api" "$agent_address:10250"; do
        ! fetch -f "http://$address/pods" >/dev/null 2>&1 || { because "$address answers without TLS"; return 1; }
        ! fetch -kf "https://$address/api/v1/pods" >/dev/null 2>&1 || { because "$address answers strangers"; return 1; }
        ! fetch -kf "https://$address/pods" >/dev/null 2>&1 || { because "$address answers strangers"; return 1; }
    done
    ss -Htn state established "dst $server_address" >"$scratch/connections"
    [ -s "$scratch/connections" ] || { because "no connection to the server is seen"; return 1; }
    other=$(awk '{ print $3, $4 }' "$scratch/connections" | grep -vE ":($api|10250)( |$)")
    [ -z "$other" ] || because "other connections: $other"
}
# What the server passes on to the agent's port.
streams_go_through() {
    prints '"version"' k exec deployment/client -- /bin/get http://127.0.0.1:8080/ || return 1
    logs_of_echo && port_forward
}
point_10() {
    [ "$form" = apart ] || return 0
    point 10.streams streams_go_through
    point 10.identity is_the_nodes_own_identity
    point 10.https speaks_only_https
}
# All of the script has passed in this form.
point_split() {
    [ "$form" = apart ] || return 0
    point 10.split equals "$failed failures" "0 failures"
}
