# 4: Services. Sourced by tests/first-light.sh.

six_thousand() {
    k set env deployment/backend PORT=6000 >/dev/null && k rollout status deployment/backend --timeout=60s >/dev/null
}
expose_backend() {
    k create service clusterip backend --tcp=3306:6000 >/dev/null && k create deployment client --image=ondol.local/echo:v1 >/dev/null \
        && within 50 ready_is deployment/client 1
}
balanced() {
    local client seen; client=$(any_pod client)
    : >"$scratch/answers"
    for _ in $(seq 30); do get_in_pod "$client" http://backend:3306/ >>"$scratch/answers" 2>&1; echo >>"$scratch/answers"; done
    seen=$(grep -o '"pod": *"[^"]*"' "$scratch/answers" | sort -u | grep -c .)
    [ "$seen" -eq 3 ] || because "$seen pods answered: $(tail -n 2 "$scratch/answers" | tr '\n' ' ')"
}
full_name() { has "$(get_in_pod "$(any_pod client)" http://backend.default.svc.cluster.local:3306/ 2>&1)" '"version"'; }
node_port() {
    k expose deployment backend --name=backend-node --type=NodePort --port=80 --target-port=6000 >/dev/null || return 1
    local port; port=$(value service/backend-node '{.spec.ports[0].nodePort}')
    within 10 fetch -f "http://127.0.0.1:$port/"
}
load_balancer() {
    k expose deployment backend --name=backend-lb --type=LoadBalancer --port=8888 --target-port=6000 >/dev/null || return 1
    within 10 has_ingress || return 1
    within 10 fetch -f "http://$(value service/backend-lb '{.status.loadBalancer.ingress[0].ip}'):8888/"
}
has_ingress() { [ -n "$(value service/backend-lb '{.status.loadBalancer.ingress[0].ip}')" ]; }
headless() {
    k create service clusterip backend-headless --clusterip=None --tcp=6000:6000 >/dev/null || return 1
    k patch service backend-headless -p '{"spec":{"selector":{"app":"backend"}}}' >/dev/null || return 1
    within 10 get_in_pod "$(any_pod client)" http://backend-headless:6000/
}
external_name() {
    k create service externalname elsewhere --external-name backend.default.svc.cluster.local >/dev/null || return 1
    within 10 get_in_pod "$(any_pod client)" http://elsewhere:3306/
}
itself() {
    k expose deployment client --port=80 --target-port=8080 >/dev/null || return 1
    within 10 get_in_pod "$(any_pod client)" http://client/
}
affinity() {
    k patch service backend -p '{"spec":{"sessionAffinity":"ClientIP"}}' >/dev/null || return 1
    within 10 one_pod_answers
    local done=$?
    k patch service backend -p '{"spec":{"sessionAffinity":"None"}}' >/dev/null
    return $done
}
one_pod_answers() {
    local address; address=$(value service/backend '{.spec.clusterIP}')
    for _ in $(seq 20); do fetch "http://$address:3306/"; echo; done | grep -o '"pod": *"[^"]*"' | sort -u >"$scratch/pods"
    equals "$(grep -c . "$scratch/pods")" 1
}
point_4() {
    point 4.port six_thousand
    point 4.service expose_backend
    point 4.balanced balanced
    point 4.full-name full_name
    point 4.node-port node_port
    point 4.load-balancer load_balancer
    point 4.headless headless
    point 4.external-name external_name
    point 4.itself itself
    point 4.affinity affinity
}
