# hostPort by rules of our own: three pods share a port of node 2 by address and protocol, and a
# fourth has it on every address of node 3.

kubectl -n days delete pod one two three four --ignore-not-found >/dev/null
kubectl apply -f - >/dev/null <<YAML
$(
    while read -r name node protocol port host_ip; do
        cat <<POD
---
apiVersion: v1
kind: Pod
metadata: {name: $name, namespace: days}
spec:
  nodeName: node$node
  terminationGracePeriodSeconds: 0
  containers:
    - name: agnhost
      image: k8s.gcr.io/e2e-test-images/agnhost:2.21
      imagePullPolicy: IfNotPresent
      args: [netexec, --http-port=8080, --udp-port=8081]
      ports: [{containerPort: $port, hostPort: 54323, protocol: $protocol, hostIP: "$host_ip"}]
POD
    done <<PODS
one 2 TCP 8080 127.0.0.1
two 2 TCP 8080 $UNDERLAY.12
three 2 UDP 8081 $UNDERLAY.12
four 3 TCP 8080 0.0.0.0
PODS
)
YAML
kubectl -n days wait --for=condition=Ready pod/one pod/two pod/three pod/four --timeout=60s >/dev/null

# expect POD ADDRESS WHERE…: that pod answers at the address, soon: it may just have begun to listen.
answers() {
    local said
    # shellcheck disable=SC2016 # expanded where it runs
    said=$("${@:3}" bash -c 'exec 3<>/dev/tcp/$0/54323; printf "GET /hostname HTTP/1.0\r\n\r\n" >&3
        tail -1 <&3' "$2")
    [ "$said" = "$1" ]
}
expect() {
    await 15 "answer of \"$1\" at $2 ${*:3}" answers "$@"
}
expect one 127.0.0.1 on 2
expect two "$UNDERLAY.12" on 2
expect two "$UNDERLAY.12" on 1
expect two "$UNDERLAY.12" outside
expect four "$UNDERLAY.13" outside
expect four 127.0.0.1 on 3
source=$(address 1)
expect two "$UNDERLAY.12" on 1 nsenter --net="$(network 1 "$source")"
source=$(address 2)
expect two "$UNDERLAY.12" on 2 nsenter --net="$(network 2 "$source")"
said=$(outside bash -c "exec 3<>/dev/udp/$UNDERLAY.12/54323; echo hostname >&3; timeout 5 head -c 5 <&3")
[ "$said" = three ] || fail "by UDP \"$said\" answers"
kubectl -n days delete pod one two three four --wait >/dev/null
no_rules() {
    ! on "$1" nft list ruleset 2>/dev/null | grep 54323
}
for node in 2 3; do await 60 "end of the rules of node$node" no_rules "$node"; done
echo "| hostPort: hostIP, UDP, from the node, its pods, other nodes, outside | 9 of 9 | | |"
