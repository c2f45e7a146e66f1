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
# Pods of bare, of controllers of every sort, with inits and sidecars; name, identity, and how often each container began
# again.
living() {
    k get pods -l owners=lives --sort-by=.metadata.name -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].restartCount} {.status.initContainerStatuses[?(@.name=="sidecar")].restartCount}{"\n"}{end}' \
        | sed 's/ *$//'
}
# Whose work is done, with everything that tells of it.
done_for_good() { k get pods -l owners=done --sort-by=.metadata.name -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.phase} {.status.containerStatuses}{"\n"}{end}'; }
owners_are_ready() {
    equals "$(k get pods -l owners=lives -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}')" 'True True True True True' \
        && equals "$(k get pods -l owners=done --sort-by=.metadata.name -o 'jsonpath={.items[*].status.phase}')" 'Succeeded Failed'
}
all_began_again() { equals "$(living)" "$(awk '{ for (i = 3; i <= NF; i++) $i += 1; print $0 }' "$scratch/living")" && owners_are_ready; }
owners_come_back() {
    k apply -f "$here/first-light/owners.yaml" >/dev/null && within 50 owners_are_ready || return 1
    living >"$scratch/living"; done_for_good >"$scratch/done"
    ondol down >"$scratch/down" 2>&1 || { because "$(tail -n 2 "$scratch/down")"; return 1; }
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up")"; return 1; }
    within 50 all_began_again || return 1
    equals "$(done_for_good)" "$(cat "$scratch/done")" || return 1
    k delete -f "$here/first-light/owners.yaml" --now >/dev/null
}
# A pod that would take its time is given no more than is said.
down_in_time() {
    k run stubborn --image=ondol.local/first-light/busybox:1 --overrides='{"spec":{"terminationGracePeriodSeconds":300}}' \
        --command -- /bin/busybox sleep 36000 >/dev/null && ready_pod stubborn || return 1
    local began=$SECONDS
    ondol down --timeout 1 >"$scratch/down" 2>&1 || { because "$(tail -n 2 "$scratch/down")"; return 1; }
    [ $((SECONDS - began)) -le 15 ] || { because "it took $((SECONDS - began)) s"; return 1; }
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up")"; return 1; }
    within 50 restarts_are_counted stubborn 0 && k delete pod stubborn --force --grace-period=0 >/dev/null 2>&1
}
# A panic that is caught harms nobody, so that all that was asked may be right all the same. It is a bug.
nobody_panicked() {
    local log all=()
    for log in /var/lib/ondol/"$instance"*/ondol.log; do [ -f "$log" ] && all+=("$log"); done
    [ ${#all[@]} -gt 0 ] || { because "there is no log to look into"; return 1; }
    ! grep -h -m 3 panicked "${all[@]}" >"$scratch/panics" || because "$(tr '\n' ' ' <"$scratch/panics")"
}
leaves_nothing() {
    nobody_panicked || return 1
    ondol down --wipe --yes >"$scratch/down" 2>&1 || { because "$(tail -n 2 "$scratch/down" | tr '\n' ' ')"; return 1; }
    snapshot >"$scratch/after"
    come_since "$scratch/before" "$scratch/after" >"$scratch/left"
    [ ! -s "$scratch/left" ] || because "left behind: $(head -n 8 "$scratch/left" | tr '\n' ' ')"
}
wipes_a_dead_server() {
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up" | tr '\n' ' ')"; return 1; }
    # shellcheck disable=SC2046
    kill -9 $(kill_sets | tail -n 1)
    leaves_nothing
}
# With a pod that runs, and every file that is ours and small damaged.
wipes_damaged_data() {
    ondol up >"$scratch/up" 2>&1 || { because "$(tail -n 2 "$scratch/up" | tr '\n' ' ')"; return 1; }
    k create deployment damaged --image=ondol.local/echo:v1 >/dev/null && within 50 ready_is deployment/damaged 1 || return 1
    # shellcheck disable=SC2046
    kill -9 $(kill_sets | tail -n 1)
    local file
    find /var/lib/ondol /run/ondol -path "*/$instance*" -type f -size -1000k >"$scratch/files"
    [ "$(grep -c . "$scratch/files")" -gt 5 ] || { because "hardly any files: $(cat "$scratch/files")"; return 1; }
    nobody_panicked || return 1
    while read -r file; do echo damaged >"$file"; done <"$scratch/files"
    leaves_nothing
}

# Two instances side by side.
second="$instance-b"
at_second() { timeout 120 "$ONDOL" --instance "$second" "$@"; }
k_second() { k --context "ondol-$second" "$@"; }
side_by_side() {
    local first forwarding url; first=$(k config current-context); forwarding=$(sysctl -n net.ipv4.ip_forward)
    at_second up >"$scratch/second" 2>&1 || { because "$(tail -n 2 "$scratch/second" | tr '\n' ' ')"; return 1; }
    k config use-context "$first" >/dev/null || return 1
    k_second create deployment backend --image=ondol.local/echo:v2 --port=8080 >/dev/null || return 1
    k_second expose deployment backend --port=80 --target-port=8080 >/dev/null || return 1
    within 50 second_is_ready || return 1
    url="http://$(k_second get service backend -o 'jsonpath={.spec.clusterIP}')/"
    within 10 is_v2 "$url" && fetch -f "$(backend_url)" >/dev/null || { because "not both answer"; return 1; }
    [ "$(k get pods -l app=backend --no-headers | grep -c .)" -eq 3 ] || { because "one sees the other's pods"; return 1; }
    at_second down --wipe --yes >"$scratch/second" 2>&1 || { because "$(tail -n 2 "$scratch/second" | tr '\n' ' ')"; return 1; }
    local left; left=$(traces_of "$second"; k config get-contexts -o name | grep -F "$second")
    [ -z "$left" ] || { because "left behind: $left"; return 1; }
    # What both need of the machine stays for the one that lives.
    fetch -f "$(backend_url)" >/dev/null && name_resolves >/dev/null || { because "the first does not answer any more"; return 1; }
    equals "$(k config current-context)" "$first" && equals "$(sysctl -n net.ipv4.ip_forward)" "$forwarding"
}
second_is_ready() { equals "$(k_second get deployment backend -o 'jsonpath={.status.readyReplicas}')" 1; }

point_last() {
    point 1.side-by-side side_by_side
    point 1.down-and-up comes_back
    point 1.owners owners_come_back
    point 1.down-timeout down_in_time
    point 1.wipe leaves_nothing
    point 1.wipe-dead wipes_a_dead_server
    point 1.wipe-damaged wipes_damaged_data
}
