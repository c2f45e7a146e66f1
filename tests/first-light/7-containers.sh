# 7: several containers in a pod. Sourced by tests/first-light.sh.

two_containers() {
    k apply -f "$here/first-light/two.yaml" >/dev/null && k wait pod/two --for=condition=Ready --timeout=50s >/dev/null || return 1
    prints '"version"' k exec two -c front -- /bin/busybox wget -qO- http://127.0.0.1:9000/
}
shared_folder() { prints warm k exec two -c reader -- /bin/busybox cat /shared/floor; }
inits_in_order() {
    k apply -f "$here/first-light/inits.yaml" >/dev/null && k wait pod/inits --for=condition=Ready --timeout=60s >/dev/null || return 1
    local first second main
    first=$(value pod/inits '{.status.initContainerStatuses[?(@.name=="first")].state.terminated.finishedAt}')
    second=$(value pod/inits '{.status.initContainerStatuses[?(@.name=="second")].state.terminated.startedAt}')
    main=$(value pod/inits '{.status.containerStatuses[0].state.running.startedAt}')
    [ -n "$first" ] && [ -n "$second" ] && [ -n "$main" ] || { because "times are missing: $first, $second, $main"; return 1; }
    [[ ! "$second" < "$first" && ! "$main" < "$second" ]] || because "$first, $second, $main"
}
sidecar_runs() {
    [ -n "$(value pod/inits '{.status.initContainerStatuses[?(@.name=="sidecar")].state.running.startedAt}')" ] || because "it does not run"
}
# Both write into a folder of the machine when they begin and when they end; what ends takes a while, so that an order
# that is no order shows.
sidecar_is_first_and_last() {
    mkdir -p "$scratch/diary"
    sed "s#DIARY#$scratch/diary#" "$here/first-light/sidecar.yaml" | k apply -f - >/dev/null && ready_pod diary || return 1
    k delete pod diary >/dev/null || return 1
    equals "$(tr '\n' ' ' <"$scratch/diary/lines")" 'sidecar begins main begins main ends sidecar ends '
}
# A pod whose mains have done their work is done, whatever its sidecars would still do.
sidecar_ends_with_the_work() {
    k apply -f "$here/first-light/work.yaml" >/dev/null || return 1
    k wait pod/work --for=jsonpath='{.status.phase}'=Succeeded --timeout=50s >/dev/null || because "$(k get pod work --no-headers)"
}
point_7() {
    point 7.localhost two_containers
    point 7.empty-dir shared_folder
    point 7.inits inits_in_order
    point 7.sidecar sidecar_runs
    point 7.sidecar-order sidecar_is_first_and_last
    point 7.sidecar-work sidecar_ends_with_the_work
    k delete pod inits work --wait=false >/dev/null 2>&1
}
