# Stock plugins behind ours: portmap has the ports of nodes in place of our own rules, and tuning
# sets a parameter of pods.

chain() {
    kubectl -n culvert patch daemonset culvert --type=json -p "[{\"op\": \"replace\",
        \"path\": \"/spec/template/spec/initContainers/0/args\", \"value\": $1}]" >/dev/null
    rolled_out
}
for node in "${nodes[@]}"; do cp /usr/lib/cni/{portmap,tuning} "$state/node$node/opt/cni/bin/"; done
chain '["cni", "install", "--timeout", "0", "--chain", "portmap,tuning"]'
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: chained, namespace: days}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
    - name: agnhost
      image: k8s.gcr.io/e2e-test-images/agnhost:2.21
      imagePullPolicy: IfNotPresent
      args: [netexec, --http-port=8080]
      ports: [{containerPort: 8080, hostPort: 54323}]
YAML
kubectl -n days wait --for=condition=Ready pod/chained --timeout=60s >/dev/null
await 15 "answer by portmap" says chained "$(node_address 2)" 54323 outside
await 15 "answer by portmap to a pod" says chained "$(node_address 2)" 54323 in_pod 1
no_port() {
    ! on 2 bash -c 'iptables-save; ip6tables-save; nft list ruleset' 2>/dev/null | grep 54323 >/dev/null
}
! no_port || fail "nobody has the port"
kubectl -n days delete pod chained --wait >/dev/null
await 30 "end of the rules" no_port
chain '["cni", "install", "--timeout", "0"]'
for node in "${nodes[@]}"; do rm "$state/node$node"/opt/cni/bin/{portmap,tuning}; done
await 60 "pods that talk" all_talk
echo "| portmap and tuning behind our plugin | a hostPort, reached and removed | | |"
