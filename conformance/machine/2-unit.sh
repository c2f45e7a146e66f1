# 2: our unit under the machine's service manager, and pods under it. Sourced by run.sh.

install_unit() {
    cp /payload/ondol /payload/kubectl /usr/local/bin/ && cp /payload/ondol.service /etc/systemd/system/ && systemctl daemon-reload
}
unit_starts() { systemctl enable --now ondol && unit_is active && is_ready; }
unit_tells() { has "$(systemctl show -p StatusText --value ondol)" Ready; }
on_version_2() { equals "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs; }
node_answers() { within 60 node_is_ready && equals "$(k config current-context)" ondol; }
pods_get_ready() { k apply -f "$here/pods.yaml" && within 300 pods_are_ready; }
by_name() { within 60 prints '"version"' k exec bare -- /bin/get http://backend/; }
by_address() { within 60 fetch "$(backend_url)"; }
by_node_port() { within 60 fetch http://127.0.0.1:30080/; }

# The file of a container's cgroup: group_file APP FILE.
group_file() {
    local uid; uid=$(k get pods -l "app=$1" -o 'jsonpath={.items[0].metadata.uid}')
    find /sys/fs/cgroup/ondol/default/pods -mindepth 3 -path "*$uid*" -name "$2" -exec cat {} + | sort -u
}
limits_are_set() {
    has "$(group_file backend cpu.max)" "50000 100000" && has "$(group_file backend memory.max)" 33554432 \
        && has "$(group_file backend cpu.weight)" 4 && [ -n "$(group_file backend pids.max)" ]
}
# The service manager arranges the whole tree anew.
stay_after_reexec() {
    remember_pods && systemctl daemon-reload && systemctl daemon-reexec && within 60 unit_is active && limits_are_set && same_pods
}
too_much_memory() {
    k apply -f "$here/greedy.yaml" || return 1
    within 120 value_is pod/greedy '{.status.containerStatuses[0].state.terminated.reason}' OOMKilled || return 1
    value_is pod/greedy '{.status.containerStatuses[0].state.terminated.exitCode}' 137 && k delete pod greedy
}

restart_it() { local before; before=$(main_pid); systemctl restart ondol && is_ready && [ "$(main_pid)" != "$before" ] && within 60 by_name; }
restarts() { remember_pods && under_load restart_it && within 60 node_is_ready && same_pods; }
kill_it() {
    local before; before=$(main_pid)
    kill -9 "$before" && within 120 is_ready && unit_is active && [ "$(main_pid)" != "$before" ]
}
is_killed() { remember_pods && under_load kill_it && within 60 node_is_ready && same_pods; }
stop_it() { systemctl stop ondol && unit_is inactive && ! k get --raw /readyz && fetch "$(cat "$scratch/url")" && systemctl start ondol && is_ready; }
stops() { backend_url >"$scratch/url"; remember_pods && under_load stop_it && within 60 node_is_ready && same_pods; }

is_down() {
    pods_now >"$scratch/pods"
    ondol down || return 1
    within 30 unit_is inactive || return 1
    # Longer than the service manager waits before it starts something again.
    local end=$(( $(uptime_s) + 5 )); until [ "$(uptime_s)" -ge "$end" ]; do sleep 1; done
    unit_is inactive || return 1
    local left; left=$(pgrep -a ondol; find /sys/fs/cgroup -path '*ondol/default*')
    [ -z "$left" ] || because "left: $left"
}
comes_back() { systemctl start ondol && is_ready && within 300 pods_are_ready && began_again "$scratch/pods" && by_address && by_name; }

unit() {
    point unit.starts unit_starts
    point unit.tells unit_tells
    point unit.cgroup-v2 on_version_2
    point unit.node node_answers
    point pods.ready pods_get_ready
    point pods.by-name by_name
    point pods.by-address by_address
    point pods.by-node-port by_node_port
    point pods.limits limits_are_set
    point pods.out-of-memory too_much_memory
    point unit.reexec stay_after_reexec
    point unit.restart restarts
    point unit.kill is_killed
    point unit.stop stops
    point unit.down is_down
    point unit.up-again comes_back
}
