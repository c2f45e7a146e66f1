# 2 again: images from a registry, Debian's own on loopback. Sourced by tests/first-light.sh.

registry_address=127.0.0.1:5055
private_address=127.0.0.1:5056
# bcrypt of "secret".
registry_user='tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a'

# serve_registry ADDRESS [FILE OF PASSWORDS]
serve_registry() {
    local folder="$scratch/registry-${1#*:}"; mkdir -p "$folder"
    printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "%s"}\n' \
        "$folder" "$1" >"$folder.yml"
    [ -z "${2:-}" ] || printf 'auth: {htpasswd: {realm: test, path: %s}}\n' "$2" >>"$folder.yml"
    serve docker-registry serve "$folder.yml"
    within 20 registry_listens "$1"
}
registry_listens() { [ "$(fetch -o /dev/null -w '%{http_code}' "http://$1/v2/")" != 000 ]; }
put_into() { skopeo copy -q --dest-tls-verify=false "docker-archive:$scratch/echo.tar" "docker://$1/shop/echo:v1" "${@:2}" >/dev/null 2>"$scratch/last" || because "$(tail -n 1 "$scratch/last")"; }

pulls_with_progress() {
    serve_registry "$registry_address" && put_into "$registry_address" || return 1
    # On a terminal a bar tells how far it is.
    terminal "$ONDOL" --instance "$instance" image pull "$registry_address/shop/echo:v1" </dev/null >"$scratch/pulled" || { because "$(tail -n 1 "$scratch/pulled")"; return 1; }
    has "$(cat "$scratch/pulled")" "$registry_address/shop/echo:v1 sha256:" || return 1
    has "$(cat "$scratch/pulled")" '[='
}
pulls_for_a_pod() {
    k run pulled --image="$registry_address/shop/echo:v1" --image-pull-policy=Always >/dev/null && ready_pod pulled || return 1
    event_says pod/pulled "Successfully pulled image \"$registry_address/shop/echo:v1\""
}
runs_by_digest() {
    local digest; digest=$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$registry_address/shop/echo:v1")
    k run digest --image="$registry_address/shop/echo@$digest" >/dev/null && ready_pod digest || return 1
    has "$(value pod/digest '{.status.containerStatuses[0].imageID}')" "$digest"
}
private_needs_a_password() {
    echo "$registry_user" >"$scratch/passwords"
    serve_registry "$private_address" "$scratch/passwords" && put_into "$private_address" --dest-creds tester:secret || return 1
    local out; out=$(ondol image pull "$private_address/shop/echo:v1" 2>&1) && { because "it came without a password"; return 1; }
    has "$out" --credentials || return 1
    prints sha256: ondol image pull --credentials tester:secret "$private_address/shop/echo:v1" || return 1
    ondol image remove "$private_address/shop/echo:v1" >/dev/null || return 1
    k create secret docker-registry shop --docker-server="$private_address" --docker-username=tester --docker-password=secret >/dev/null || return 1
    k run private --image="$private_address/shop/echo:v1" --overrides='{"spec":{"imagePullSecrets":[{"name":"shop"}]}}' >/dev/null && ready_pod private
}
missing_image_is_told() {
    local out; out=$(ondol image pull "$registry_address/shop/none:v1" 2>&1) && { because "it was pulled"; return 1; }
    has "$out" "$registry_address/shop/none:v1"
}
registry_points() {
    point 2.pull pulls_with_progress
    point 2.pod-pulls pulls_for_a_pod
    point 2.digest runs_by_digest
    point 2.private private_needs_a_password
    point 2.missing missing_image_is_told
    k delete pod pulled digest private --wait=false --grace-period=1 >/dev/null 2>&1
    end_servants
}
