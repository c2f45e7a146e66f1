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
# The image declares its own /bin, and a folder that it does not have; nothing else of the root can be written to.
image_has_volumes() {
    local folder="$scratch/busybox"
    sed 's#"config":{#"config":{"Volumes":{"/bin":{},"/not/there":{}},#' "$folder/config.json" >"$folder/volumes.json"
    printf '[{"Config":"volumes.json","RepoTags":["ondol.local/first-light/volumes:1"],"Layers":["layer.tar"]}]' >"$folder/manifest.json"
    tar -C "$folder" -cf "$folder/volumes.tar" manifest.json volumes.json layer.tar || return 1
    ondol image import "$folder/volumes.tar" >/dev/null && k apply -f "$here/first-light/volumes.yaml" >/dev/null || return 1
    k wait pod/volumes --for=jsonpath='{.status.phase}'=Succeeded --timeout=50s >/dev/null || { because "$(k logs volumes 2>&1 | tail -n 2)"; return 1; }
    equals "$(k logs volumes)" sealed
}
point_7() {
    point 7.localhost two_containers
    point 7.empty-dir shared_folder
    point 7.inits inits_in_order
    point 7.sidecar sidecar_runs
    point 7.sidecar-order sidecar_is_first_and_last
    point 7.sidecar-work sidecar_ends_with_the_work
    point 7.image-volumes image_has_volumes
    k delete pod inits work volumes --wait=false >/dev/null 2>&1
}
