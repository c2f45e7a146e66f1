# The form of `ondol server` and `ondol agent`: two processes in network namespaces of their own, joined by one link.
# The script and kubectl are in the agent's, which is the machine as users of pods see it. Sourced by
# tests/first-light/frame.sh.

server="$instance-s"
agent_address=198.51.100.2
server_address=198.51.100.1
node=house

raise_house() {
    unshare --net sleep infinity & holder=$!
    within 5 has_own_network "$holder" || return 1
    ip link add to-server type veth peer name to-agent netns "$holder"
    # Addresses that the kernel gives by itself would come late and look like something left behind.
    ip link set to-server addrgenmode none
    in_server ip link set to-agent addrgenmode none
    ip address add "$agent_address/30" dev to-server
    ip link set to-server up
    in_server ip address add "$server_address/30" dev to-agent
    in_server ip link set to-agent up
    in_server ip link set lo up
    # The kernel tells of a carrier, and adds routes for it, a moment later.
    within 10 carry
}
carry() {
    ip link show to-server | grep -q LOWER_UP && in_server ip link show to-agent | grep -q LOWER_UP \
        && ip -6 route show table all dev to-server | grep -q ff00 && in_server ip -6 route show table all dev to-agent | grep -q ff00
}
in_server() { nsenter --net="/proc/$holder/ns/net" "$@"; }
in_networks() { "$@"; in_server "$@"; }

# Each verb goes to the process that has the answer.
ondol() {
    local verb=$1; shift
    case $verb in
        up) up_apart ;;
        image) at_agent image "$@" ;;
        status) at_server status "$@" && at_agent status "$@" ;;
        # The agent first: pods tell the server how they end.
        down) at_agent down "$@" && at_server down "$@" ;;
        *) at_server "$verb" "$@" ;;
    esac
}
at_server() { in_server timeout 120 "$ONDOL" --instance "$server" "$@"; }
at_agent() { timeout 120 "$ONDOL" --instance "$instance" "$@"; }

up_apart() {
    local began=""
    if ! is_up "$server"; then
        start_role "$server" nsenter --net="/proc/$holder/ns/net" "$ONDOL" --instance "$server" server \
            --advertise-address "$server_address" --node "$node=$agent_address" || return 1
        began=yes
    fi
    if ! is_up "$instance"; then
        start_role "$instance" "$ONDOL" --instance "$instance" agent \
            --kubeconfig "/var/lib/ondol/$server/agents/$node.kubeconfig" || return 1
        began=yes
    fi
    within 60 node_is_ready || { echo "the node does not get Ready"; return 1; }
    # As a second one is answered.
    [ -n "$began" ] || at_server server 2>&1 | sed 's/^error: //'
}
# start_role INSTANCE COMMAND...: in the background; its log is where `ondol logs` looks.
start_role() {
    local name=$1 log="/var/lib/ondol/$1/ondol.log"; shift
    mkdir -p "${log%/*}"
    setsid -f "$@" >>"$log" 2>&1 </dev/null
    within 60 is_up "$name" || { tail -n 3 "$log"; return 1; }
    tail -n 5 "$log"
}
up_in_foreground() { up_apart >/dev/null; }
pid_of() { cat "/run/ondol/$1/lock"; }
server_pid() { pid_of "$server"; }
kill_sets() {
    pid_of "$server"
    pid_of "$instance"
    echo "$(pid_of "$server") $(pid_of "$instance")"
}
