# hostPort by rules of our own: three pods share a port of node 2 by address and protocol, and a
# fourth has it on every address of node 3.

two=$(node_address 2) three=$(node_address 3)
if [ "${families:0:1}" = 4 ]; then any=0.0.0.0 self=127.0.0.1; else any=:: self=; fi
kubectl -n days delete pod one two three four --ignore-not-found >/dev/null
kubectl apply -f - >/dev/null <<YAML
$(
    while read -r name node protocol port host_ip; do
        # Nothing that comes from ::1 leaves the node's own stack.
        [ -n "$host_ip" ] || continue
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
one 2 TCP 8080 $self
two 2 TCP 8080 $two
three 2 UDP 8081 $two
four 3 TCP 8080 $any
PODS
)
YAML
kubectl -n days wait --for=condition=Ready pod -l '!app' --timeout=60s >/dev/null

# expect POD ADDRESS WHERE…: that pod answers at the address, soon: it may just have begun to listen.
answers=0
expect() {
    await 15 "answer of \"$1\" at $2 ${*:3}" says "$1" "$2" 54323 "${@:3}"
    answers=$((answers + 1))
}
expect two "$two" on 2
expect two "$two" on 1
expect two "$two" outside
expect two "$two" in_pod 1
expect two "$two" in_pod 2
expect four "$three" outside
if [ -n "$self" ]; then
    expect one "$self" on 2
    expect four "$self" on 3
fi
said=$(outside bash -c "exec 3<>/dev/udp/$two/54323; echo hostname >&3; timeout 5 head -c 5 <&3")
[ "$said" = three ] || fail "by UDP \"$said\" answers"
kubectl -n days delete pod -l '!app' --wait >/dev/null
no_rules() {
    ! on "$1" nft list ruleset 2>/dev/null | grep 54323
}
for node in 2 3; do await 60 "end of the rules of node$node" no_rules "$node"; done
echo "| hostPort: hostIP, UDP, from the node, its pods, other nodes, outside | $((answers + 1)) ways | | |"
