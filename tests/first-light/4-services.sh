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
    for _ in $(seq 20); do get_in_pod "$client" http://backend:3306/ >>"$scratch/answers" 2>&1; echo >>"$scratch/answers"; done
    seen=$(grep -o '"pod": *"[^"]*"' "$scratch/answers" | sort -u | grep -c .)
    [ "$seen" -eq 3 ] || because "$seen pods answered: $(tail -n 2 "$scratch/answers" | tr '\n' ' ')"
}
full_name() { has "$(get_in_pod "$(any_pod client)" http://backend.default.svc.cluster.local:3306/ 2>&1)" '"version"'; }
node_port() {
    k expose deployment backend --name=backend-node --type=NodePort --port=80 --target-port=6000 >/dev/null || return 1
    local port; port=$(value service/backend-node '{.spec.ports[0].nodePort}')
    within 10 fetch -f "http://127.0.0.1:$port/" && within 10 fetch -f "http://$(node_address):$port/"
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
    within 10 get_in_pod "$(any_pod client)" http://backend-headless:6000/ && within 10 every_pod_has_an_address
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
every_pod_has_an_address() {
    ask nslookup -type=a backend-headless.default.svc.cluster.local >"$scratch/names" 2>&1
    local ip; for ip in $(k get pods -l app=backend -o 'jsonpath={.items[*].status.podIP}'); do
        has "$(cat "$scratch/names")" "$ip" || return 1
    done
}
# Questions of a pod with busybox.
start_tools() { k run tools --image=ondol.local/first-light/busybox:1 --overrides='{"spec":{"terminationGracePeriodSeconds":1}}' --command -- /bin/busybox sleep 36000 >/dev/null && ready_pod tools; }
ask() { k exec tools -- /bin/busybox "$@"; }
names_of_ports() { prints "0 100 3306 backend.default.svc.cluster.local" ask nslookup -type=srv _3306-6000._tcp.backend.default.svc.cluster.local; }
names_of_addresses() { prints "name = backend.default.svc.cluster.local" ask nslookup "$(value service/backend '{.spec.clusterIP}')"; }
named_target_port() {
    k apply -f "$here/first-light/services.yaml" >/dev/null && ready_pod early && ready_pod late || return 1
    # The two pods give the name to different numbers.
    within 10 both_answer "http://$(value service/named '{.spec.clusterIP}')/"
}
both_answer() {
    for _ in $(seq 20); do fetch "$1"; done | grep -o '"pod": *"[^"]*"' | sort -u >"$scratch/pods"
    equals "$(grep -c . "$scratch/pods")" 2
}
# datagram ADDRESS PORT: is sent back by the demo server.
datagram() {
    local answer=""
    exec 4<>"/dev/udp/$1/$2" && echo floor >&4 && answer=$(timeout 2 head -c 5 <&4)
    exec 4>&-
    equals "$answer" floor
}
datagrams() {
    local port; port=$(value service/datagrams '{.spec.ports[0].nodePort}')
    within 10 datagram "$(value service/datagrams '{.spec.clusterIP}')" 53 && within 10 datagram 127.0.0.1 "$port" \
        && within 10 datagram "$(node_address)" "$port"
}
without_selector() {
    sed "s/ADDRESS/$(address_of early)/" "$here/first-light/endpoints.yaml" | k apply -f - >/dev/null 2>&1 || return 1
    within 10 fetch -f "http://$(value service/sliced '{.spec.clusterIP}')/" || return 1
    within 10 fetch -f "http://$(value service/mirrored '{.spec.clusterIP}')/" || return 1
    within 10 prints "$(address_of early)" k get endpointslices -l endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io
}
taken_port_waits() {
    k expose deployment backend --name=second-lb --type=LoadBalancer --port=8888 --target-port=6000 >/dev/null || return 1
    event_says service/second-lb 'port 8888/TCP is taken by Service default/backend-lb' || return 1
    prints '<pending>' k get service second-lb && prints 'port 8888/TCP is taken' ondol why service/second-lb || return 1
    k delete service backend-lb >/dev/null || return 1
    # It gets the port as soon as that is free.
    within 10 fetch -f "http://$(node_address):8888/"
}
# listens PORT: another program does, on all addresses; kubectl's proxy tells the API's version there.
listens() {
    "$KUBECTL" proxy --address=0.0.0.0 --port="$1" --accept-hosts=. >"$scratch/proxy" 2>&1 & listener=$!
    within 15 prints gitVersion fetch "http://127.0.0.1:$1/version"
}
stops_listening() { kill "$listener"; wait "$listener" 2>/dev/null; listener=""; }
# A port on which a program of the machine listens is that program's, until it ends.
listened_port_waits() {
    listens 8899 || return 1
    k expose deployment backend --name=third-lb --type=LoadBalancer --port=8899 --target-port=6000 >/dev/null || return 1
    event_says service/third-lb 'port 8899/TCP is taken by the program' || return 1
    prints '<pending>' k get service third-lb && prints '8899/TCP is taken by the program' ondol why service/third-lb || return 1
    prints gitVersion fetch "http://$(node_address):8899/version" || return 1
    stops_listening
    within 10 prints '"pod"' fetch "http://$(node_address):8899/"
}
listened_node_port() {
    listens 30899 || return 1
    local ports='{"spec":{"ports":[{"port":80,"targetPort":6000,"nodePort":30899}]}}'
    k expose deployment backend --name=late-node --type=NodePort --port=80 --target-port=6000 --overrides="$ports" >/dev/null || return 1
    event_says service/late-node 'port 30899/TCP of' || return 1
    within 10 prints "it is not served at $(node_address):30899/TCP" ondol why service/late-node || return 1
    prints gitVersion fetch "http://$(node_address):30899/version" && prints gitVersion fetch http://127.0.0.1:30899/version || return 1
    stops_listening
    within 10 prints '"pod"' fetch "http://$(node_address):30899/" && within 10 prints '"pod"' fetch http://127.0.0.1:30899/
}
# The ports of API and kubelet stay the node's.
own_ports_are_kept() {
    k expose deployment backend --name=greedy --type=LoadBalancer --port=10250 --target-port=6000 >/dev/null || return 1
    event_says service/greedy 'port 10250/TCP is taken by the node itself' || return 1
    k expose deployment backend --name=greedier --external-ip="$(node_address)" --port=10250 --target-port=6000 >/dev/null || return 1
    event_says service/greedier "port 10250 of $(node_address) is the node's own" || return 1
    if [ "$form" = together ]; then
        local port; port=$(k config view --minify -o 'jsonpath={.clusters[0].cluster.server}')
        k expose deployment backend --name=greediest --external-ip="$(node_address)" --port="${port##*:}" --target-port=6000 >/dev/null || return 1
        event_says service/greediest "port ${port##*:} of $(node_address) is the node's own" || return 1
    fi
    get_in_pod "$(any_pod client)" http://backend:3306/
}
# What balancers ask of the node.
health_port() {
    local spec='{"spec":{"externalTrafficPolicy":"Local"}}' port
    k expose deployment backend --name=checked --type=LoadBalancer --port=8877 --target-port=6000 --overrides="$spec" >/dev/null || return 1
    port=$(value service/checked '{.spec.healthCheckNodePort}')
    within 10 prints '"localEndpoints": 3' fetch -f "http://127.0.0.1:$port/" || return 1
    prints '"serviceProxyHealthy": true' fetch -f "http://$(node_address):$port/" || return 1
    k patch service checked -p '{"spec":{"selector":{"app":"nobody"}}}' >/dev/null || return 1
    within 10 equals_status 503 "http://127.0.0.1:$port/" || return 1
    k delete service checked >/dev/null
    within 10 equals_status 000 "http://127.0.0.1:$port/"
}
equals_status() { equals "$(curl -s -o /dev/null -w '%{http_code}' --max-time 5 "$2")" "$1"; }
# A user looks at his firewall with the distribution's own tool.
listed_by_nft() {
    k patch service backend -p '{"spec":{"sessionAffinity":"ClientIP"}}' >/dev/null || return 1
    within 10 remembered && nft -j list ruleset >"$scratch/rules" && nft list tables >"$scratch/rules"
    local done=$?
    k patch service backend -p '{"spec":{"sessionAffinity":"None"}}' >/dev/null
    return $done
}
remembered() { fetch "http://$(value service/backend '{.spec.clusterIP}'):3306/" && prints 'update @affinity' nft list ruleset; }
# Killed and started again, the node answers names within a second, and denies none.
names_come_back() {
    local pid dns killed
    pid=$(ps -e -o pid=,args= | awk '$2 == "/bin/busybox" && $4 == 36000 { print $1 }')
    dns=$(k get service kube-dns -n kube-system -o 'jsonpath={.spec.clusterIP}')
    [ -n "$pid" ] && [ -n "$dns" ] || { because "no process of the pod \"tools\", or no name server"; return 1; }
    # From the pod's network, for nothing goes through a server that is dead.
    resolves() { nsenter -t "$pid" --net busybox nslookup -type=a "$1.default.svc.cluster.local" "$dns" 2>&1; }
    prints "$(value service/backend '{.spec.clusterIP}')" resolves backend || return 1
    # Made at the last moment.
    k create service clusterip newest --tcp=80:80 --clusterip="$(near "$dns")" >/dev/null || return 1
    killed=$(kill_sets | tail -n 1)
    # shellcheck disable=SC2086
    kill -9 $killed
    ondol up >"$scratch/up" 2>&1 &
    local starting=$!
    within 5 prints "Address: " is_named backend && within 25 prints "$(near "$dns")" is_named newest
    local done=$?
    wait "$starting" || { because "$(tail -n 2 "$scratch/up")"; return 1; }
    return $done
}
# An address of the range of Services beside another.
near() { echo "${1%.*}.77"; }
# A name that exists is never denied, whatever else the answer is.
is_named() {
    local out; out=$(resolves "$1")
    case $out in *NXDOMAIN*) echo "$1" >>"$scratch/denied" ;; esac
    [ ! -s "$scratch/denied" ] || { because "denied: $(tr '\n' ' ' <"$scratch/denied")"; return 1; }
    echo "$out"
}
# A node that was told its address answers there also to other machines.
told_address_is_open() {
    within 10 in_server curl -sf --max-time 5 "http://$agent_address:$1/" && within 10 in_server curl -sf --max-time 5 "http://$agent_address:8888/"
}
nothing_listens_outside() {
    local out; out=$(ss -Hlntu | awk '{ print $5 }' | grep -vE "^(127\\.|\\[::1\\]:|$(node_address):)")
    [ -z "$out" ] || because "$out"
}
# Another machine on a wire to this one: it gets no answer from pods, Services or node ports.
outside_gets_nothing() {
    serve unshare --net sleep 600
    local other=${servants[-1]} url asked=()
    within 10 has_own_network "$other" || return 1
    ip link add fl-in type veth peer name fl-out netns "$other" || return 1
    ip address add 192.0.2.1/24 dev fl-in && ip link set fl-in up
    outside() { nsenter -t "$other" --net "$@"; }
    outside ip address add 192.0.2.2/24 dev fl-out && outside ip link set fl-out up && outside ip route add default via 192.0.2.1
    within 10 outside busybox ping -c 1 -W 1 192.0.2.1 || { end_servants; return 1; }
    for url in "192.0.2.1:$1" "$(node_address):$1" "$(node_address):8888" "$(address_of early):8080" \
        "$(value service/backend '{.spec.clusterIP}'):3306" "$(node_address):10250"; do
        outside curl -s --max-time 2 "$url" >"$scratch/outside-${url//[:.]/-}" & asked+=($!)
    done
    wait "${asked[@]}"
    ip link delete fl-in
    end_servants
    ! grep -l . "$scratch"/outside-* || because "it was answered: $(cat "$scratch"/outside-* | head -c 300)"
}

point_4() {
    point 4.tools start_tools
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
    point 4.srv names_of_ports
    point 4.ptr names_of_addresses
    point 4.named named_target_port
    point 4.udp datagrams
    point 4.no-selector without_selector
    point 4.taken-port taken_port_waits
    point 4.listened-port listened_port_waits
    point 4.listened-node-port listened_node_port
    point 4.own-ports own_ports_are_kept
    point 4.health-port health_port
    point 4.nft listed_by_nft
    point 4.names-again names_come_back
    # The other form is told an address of the machine.
    if [ "$form" = apart ]; then
        point 4.node-ip told_address_is_open "$(value service/backend-node '{.spec.ports[0].nodePort}')"
    else
        point 4.listeners nothing_listens_outside
        point 4.outside outside_gets_nothing "$(value service/backend-node '{.spec.ports[0].nodePort}')"
    fi
    k delete -f "$here/first-light/services.yaml" --wait=false --grace-period=1 >/dev/null 2>&1
    k delete -f "$here/first-light/endpoints.yaml" --wait=false >/dev/null 2>&1
}
