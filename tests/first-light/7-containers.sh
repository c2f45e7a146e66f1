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
point_7() {
    point 7.localhost two_containers
    point 7.empty-dir shared_folder
    point 7.inits inits_in_order
    point 7.sidecar sidecar_runs
    k delete pod inits --wait=false >/dev/null 2>&1
}
