# 2: the demo images, and images made by hand. Sourced by tests/first-light.sh.

images_are_carried() { prints ondol.local/echo:v1 ondol image list && prints ondol.local/echo:v2 ondol image list; }
# Before anything else is in the store.
cost_little() {
    local kib; kib=$(du -sk "/var/lib/ondol/$instance/images" | cut -f1)
    [ "$kib" -lt 2048 ] || because "the images take $kib KiB"
}
# pack_image PROGRAM...: some of the machine's programs and the libraries they need, in the form of `docker save`. The
# image has the name of the first.
pack_image() {
    local folder="$scratch/$1" layer program file
    mkdir -p "$folder/root/bin" "$folder/root/tmp"
    for program in "$@"; do
        cp -L "$(command -v "$program")" "$folder/root/bin/$program"
        for file in $(ldd "$folder/root/bin/$program" 2>/dev/null | grep -o '/[^ ]*'); do
            mkdir -p "$folder/root$(dirname "$file")" && cp -L "$file" "$folder/root$file"
        done
    done
    ln -sf busybox "$folder/root/bin/tar"
    tar -C "$folder/root" -cf "$folder/layer.tar" . || return 1
    layer=$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(dpkg --print-architecture)" "$layer" >"$folder/config.json"
    printf '[{"Config":"config.json","RepoTags":["ondol.local/first-light/%s:1"],"Layers":["layer.tar"]}]' "$1" >"$folder/manifest.json"
    tar -C "$folder" -cf "$folder/image.tar" manifest.json config.json layer.tar
}
import_tools() {
    pack_image busybox && pack_image curl busybox || return 1
    prints first-light/busybox:1 ondol image import "$scratch/busybox/image.tar" || return 1
    prints first-light/curl:1 ondol image import - <"$scratch/curl/image.tar"
}
image_saves() { ondol image save ondol.local/echo:v1 >"$scratch/echo.tar" && tar -tf "$scratch/echo.tar" >/dev/null; }
# skopeo reads the same form that `docker load` does.
docker_could_load() { prints '"Layers"' skopeo inspect "docker-archive:$scratch/echo.tar"; }
saved_comes_back_with_another_name() {
    ondol image import - --name shop.example/renamed:latest <"$scratch/echo.tar" >/dev/null || return 1
    k run renamed --image=shop.example/renamed >/dev/null && ready_pod renamed || return 1
    # `latest` means Always, and yet no registry is asked, for the name was made here.
    event_says pod/renamed 'was imported on this machine, so no registry is asked'
}
tag_gives_a_name() {
    ondol image tag ondol.local/echo:v2 shop.example/tagged:1 >/dev/null && ondol image inspect shop.example/tagged:1 >/dev/null || return 1
    prints 'shop.example/tagged:1' ondol image list
    ondol image remove shop.example/tagged:1 >/dev/null || return 1
    ! ondol image inspect shop.example/tagged:1 >/dev/null 2>&1 || because "it is still there after its removal"
}
used_stays() {
    local out; out=$(ondol image remove shop.example/renamed:latest 2>&1) && { because "the image of a running pod was removed"; return 1; }
    has "$out" 'pod default/renamed'
}

# What the demo server can be asked for: pods that are started together, and looked at one by one.
start_moods() {
    k run slow --image=ondol.local/echo:v1 --env=ECHO_DELAY_MS=400 >/dev/null || return 1
    k apply -f "$here/first-light/moods.yaml" >/dev/null
}
milliseconds_of() { fetch -o /dev/null -w '%{time_total}' "$1" | awk '{ print int($1 * 1000) }'; }
slow_by_path_and_environment() {
    ready_pod slow && ready_pod moody || return 1
    local environment path; environment=$(milliseconds_of "http://$(address_of slow):8080/")
    path=$(milliseconds_of "http://$(address_of moody):8080/slow?ms=300")
    [ "$environment" -ge 400 ] && [ "$path" -ge 300 ] || because "answers took $environment and $path ms"
}
runs_unready() {
    local told; told=$(value "$1" '{.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].ready}')
    case "$told" in 20*' false') ;; *) because "running since and ready: \"$told\"";; esac
}
fails_its_probes() {
    within 20 runs_unready pod/unready || return 1
    event_says pod/unready 'Readiness probe failed: HTTP probe failed with statuscode: 503' || return 1
    fetch -X POST "http://$(address_of moody):8080/fail?probe=liveness&on=true" >/dev/null || return 1
    within 30 value_is pod/moody '{.status.containerStatuses[0].restartCount}' 1 || return 1
    event_says pod/moody 'failed liveness probe, will be restarted'
}
ends_with() { value_is "$1" '{.status.containerStatuses[0].lastState.terminated.reason}-{.status.containerStatuses[0].lastState.terminated.exitCode}' "$2"; }
exits_as_asked() {
    ready_pod moody && fetch "http://$(address_of moody):8080/exit?code=3" >/dev/null || return 1
    within 20 ends_with pod/moody Error-3 || return 1
    value_is pod/short-lived '{.status.phase}-{.status.containerStatuses[0].state.terminated.exitCode}' Failed-7
}
eats_memory() { within 30 ends_with pod/hungry OOMKilled-137; }
refuses_root() {
    within 20 prints 'refusing to run as root' k logs careful || return 1
    within 20 prints 'CreateContainerConfigError container has runAsNonRoot and image will run as root' value pod/not-root \
        '{.status.containerStatuses[0].state.waiting.reason} {.status.containerStatuses[0].state.waiting.message}' || return 1
    ready_pod user
}
# Neither by a process of the pod nor by a mount; the paths of the program are long enough to be nobody else's.
host_binary_is_hidden() {
    ready_pod hidden || return 1
    k exec hidden -- /bin/busybox sh -c 'cat /proc/self/mountinfo /proc/[0-9]*/maps; for file in /proc/[0-9]*/exe; do readlink $file; done' >"$scratch/seen" 2>&1
    grep -q busybox "$scratch/seen" || { because "nothing was seen: $(head -n 2 "$scratch/seen")"; return 1; }
    ! grep -F "$(realpath "$ONDOL")" "$scratch/seen" || because "it shows $(grep -F -m 1 "$(realpath "$ONDOL")" "$scratch/seen")" || return 1
    local biggest; biggest=$(k exec hidden -- /bin/busybox sh -c 'for file in /proc/[0-9]*/exe; do busybox stat -Lc %s $file; done' 2>/dev/null | sort -n | tail -n 1)
    [ "${biggest:-0}" -lt "$(stat -Lc %s "$ONDOL")" ] || because "a program of $biggest bytes is in the pod"
}

point_2() {
    point 2.images images_are_carried
    point 2.cost cost_little
    point 2.import import_tools
    point 2.save image_saves
    start_moods
    point 2.docker docker_could_load
    point 2.other-name saved_comes_back_with_another_name
    point 2.tag tag_gives_a_name
    point 2.used used_stays
    point 2.slow slow_by_path_and_environment
    point 2.probes fails_its_probes
    point 2.exits exits_as_asked
    point 2.memory eats_memory
    point 2.root refuses_root
    point 2.hidden host_binary_is_hidden
    k delete pod slow renamed --wait=false --grace-period=1 >/dev/null 2>&1
    k delete -f "$here/first-light/moods.yaml" --wait=false --grace-period=1 >/dev/null 2>&1
    registry_points
}
