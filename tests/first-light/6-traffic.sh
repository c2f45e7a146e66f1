# 6: blue/green and canary. Sourced by tests/first-light.sh.

blue_and_green() {
    for version in v1 v2; do
        k create deployment "colour-$version" --image="ondol.local/echo:$version" --replicas=2 >/dev/null || return 1
        within 50 ready_is "deployment/colour-$version" 2 || return 1
    done
    k create service clusterip colour --tcp=80:8080 >/dev/null || return 1
    k patch service colour -p '{"spec":{"selector":{"app":"colour-v1"}}}' >/dev/null || return 1
    local url; url="http://$(value service/colour '{.spec.clusterIP}')/"
    within 10 fetch -f "$url" || return 1
    start_load "$url"
    k patch service colour -p '{"spec":{"selector":{"app":"colour-v2"}}}' >/dev/null
    local changed=${EPOCHREALTIME/./} last
    for _ in $(seq 50); do is_v2 "$url"; done
    stop_load || return 1
    grep -q '"v2"' "$scratch/load" || { because "the new pods never answered"; return 1; }
    # The last connection that was begun and answered by an old pod, against the moment in which the change was acknowledged.
    last=$(grep '"v1"' "$scratch/load" | sort -n | tail -n 1 | cut -d' ' -f1)
    [ $(( (${last:-0} - changed) / 1000 )) -le 500 ] || because "an old pod answered $(( (last - changed) / 1000 )) ms later"
}
is_v2() { case "$(fetch "$1")" in *'"v2"'*) ;; *) return 1;; esac; }
canary() {
    sed "s/NAME/stable/g; s/REPLICAS/9/; s/VERSION/v1/" "$here/first-light/canary.yaml" | k apply -f - >/dev/null || return 1
    sed "s/NAME/fresh/g; s/REPLICAS/1/; s/VERSION/v2/" "$here/first-light/canary.yaml" | k apply -f - >/dev/null || return 1
    k create service clusterip my-app --tcp=80:8080 >/dev/null || return 1
    within 100 ready_is deployment/stable 9 && within 50 ready_is deployment/fresh 1 || return 1
    local url count fresh; url="http://$(value service/my-app '{.spec.clusterIP}')"; count=${FIRST_LIGHT_REQUESTS:-10000}
    within 10 fetch -f "$url/" || return 1
    fresh=$(curl -s -H 'Connection: close' "$url/?[1-$count]" | grep -o '"version": *"v2"' | grep -c .)
    [ $((fresh * 100)) -ge $((count * 8)) ] && [ $((fresh * 100)) -le $((count * 12)) ] || because "$fresh of $count"
}
point_6() {
    point 6.blue-green blue_and_green
    point 6.canary canary
    k delete deployment colour-v1 colour-v2 stable fresh --wait=false >/dev/null 2>&1
}
