# 3: a Deployment. Sourced by tests/first-light.sh.

own_addresses() {
    local ips; ips=$(k get pods -l app=backend -o 'jsonpath={range .items[*]}{.status.podIP}{"\n"}{end}' | sort -u | grep -c .)
    equals "$ips" 3
}
# With its version, its own name, and the address from which it was asked.
pod_answers() {
    local pod answer; pod=$(any_pod backend); answer=$(fetch "http://$(address_of "$pod"):8080/warm?floor=1")
    has "$answer" '"version":"v1"' && has "$answer" "\"pod\":\"$pod\"" && has "$answer" '"path":"/warm"' || return 1
    echo "$answer" | grep -qE '"caller":"[0-9.]+:[0-9]+"' || because "$answer"
}
deleted_pod_is_replaced() {
    local gone; gone=$(any_pod backend)
    k delete pod "$gone" --wait=true >/dev/null || return 1
    within 50 ready_is deployment/backend 3 || return 1
    ! k get pod "$gone" >/dev/null 2>&1 || because "$gone is still there"
}
create_backend() { k create deployment backend --image=ondol.local/echo:v1 --replicas=3 --port=8080 >/dev/null; }
scale_to() { k scale deployment/backend --replicas="$1" >/dev/null && within 50 ready_is deployment/backend "$1"; }
count_pods() { equals "$(k get pods -l "app=$1" --no-headers 2>/dev/null | grep -c .)" "$2"; }
deployment_goes() {
    k create deployment short --image=ondol.local/echo:v1 >/dev/null && within 50 ready_is deployment/short 1 || return 1
    k delete deployment short >/dev/null || return 1
    within 60 count_pods short 0
}
point_3() {
    point 3.create create_backend
    point 3.ready within 50 ready_is deployment/backend 3
    point 3.addresses own_addresses
    point 3.answers within 10 pod_answers
    point 3.scale-up scale_to 5
    point 3.scale-down scale_to 3
    point 3.pods-after-scaling within 60 count_pods backend 3
    point 3.delete-pod deleted_pod_is_replaced
    point 3.delete-deployment deployment_goes
}
