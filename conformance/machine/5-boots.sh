# 5: what each boot is for. Sourced by run.sh.

# Every object by its identity. Events and what the node says of itself come and go.
objects() {
    local kinds; kinds=$(k api-resources --verbs=list -o name | grep -vE '^(events|leases|componentstatuses)' | paste -sd,)
    k get "$kinds" -A --ignore-not-found -o 'jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.uid}{"\n"}{end}' | sort
}
all_objects_are_back() {
    objects >"$scratch/objects"
    [ "$(wc -l <"$state/objects")" -gt 30 ] || { because "hardly any objects were there: $(wc -l <"$state/objects")"; return 1; }
    local differs; differs=$(diff "$state/objects" "$scratch/objects")
    [ -z "$differs" ] || because "$(echo "$differs" | head -n 6 | tr '\n' ' ')"
}
unit_started_by_itself() { within 300 unit_is active && within 60 is_ready && within 60 node_is_ready; }
pods_are_back() { within 300 pods_are_ready && began_again "$state/pods"; }
answers_again() { within 60 by_address && by_name && by_node_port; }

boot_first() {
    if ! install_unit >&2; then fail unit.starts "the files cannot be installed"; return; fi
    # Before anything has loaded what they lack.
    lacking
    snapshot >"$state/before" 2>/dev/null
    unit
    logout
    clock
    pods_now >"$state/pods"
    objects >"$state/objects"
    date +%s >"$state/rebooted"
    systemctl reboot
    sleep infinity
}

# Pods that do not hear of it would keep the machine from ending for a minute and a half.
shut_down_soon() {
    local took=$(( $(awk '$1 == "btime" { print $2 }' /proc/stat) - $(cat "$state/rebooted") ))
    [ "$took" -le 85 ] || because "it took $took s"
}
pods_were_told() { prints "pods have ended" journalctl -b -1 -u ondol --no-pager; }
boot_after_reboot() {
    point reboot.unit unit_started_by_itself
    point reboot.soon shut_down_soon
    point reboot.told pods_were_told
    point reboot.pods pods_are_back
    point reboot.objects all_objects_are_back
    point reboot.answers answers_again
    pods_now >"$state/pods"
    objects >"$state/objects"
    sync
    # Acknowledged, and then there is no power.
    k create configmap kept --from-literal=warm=yes >&2 && echo yes >"$state/acknowledged" && sync "$state/acknowledged"
    k create configmap kept-too --from-literal=warm=yes >&2
    echo b >/proc/sysrq-trigger
    sleep infinity
}

kept_what_it_acknowledged() {
    [ -s "$state/acknowledged" ] && value_is configmap/kept '{.data.warm}' yes && value_is configmap/kept-too '{.data.warm}' yes
}
leaves_nothing() {
    k delete configmap kept kept-too --ignore-not-found || return 1
    ondol down --wipe --yes || return 1
    within 30 unit_is inactive || return 1
    snapshot >"$scratch/after" 2>/dev/null
    diff "$state/before" "$scratch/after" | sed -n 's/^> //p' >"$scratch/left"
    [ ! -s "$scratch/left" ] || because "left behind: $(head -n 8 "$scratch/left" | tr '\n' ' ')"
}
boot_after_power_cut() {
    point power-cut.unit unit_started_by_itself
    point power-cut.kept kept_what_it_acknowledged
    point power-cut.pods pods_are_back
    point power-cut.answers answers_again
    point wipe.leaves-nothing leaves_nothing
}
