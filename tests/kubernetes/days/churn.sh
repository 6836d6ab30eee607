# 60 pods up and down, ten times, or PODS pods ROUNDS times: nothing of them may stay.
pods=${PODS:-60} rounds=${ROUNDS:-10}

kubectl apply -f - >/dev/null <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: many, namespace: days}
spec:
  replicas: 0
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: pod, image: "k8s.gcr.io/pause:3.2", imagePullPolicy: IfNotPresent}]
YAML

# What pods leave behind if somebody forgets: devices, networks, addresses.
traces() {
    local node
    for node in "${nodes[@]}"; do
        echo "node$node devices $(on "$node" ip -br link show type veth | wc -l)" \
            "networks $(on "$node" ls /run/netns | wc -l) addresses $(culvert "$node" ipam list | wc -l)"
    done
}
none_left() {
    [ -z "$(kubectl -n days get pods -l app=many -o name)" ]
}
as_before() {
    [ "$(traces)" = "$before" ]
}
churn() {
    local round
    for ((round = 1; round <= rounds; round++)); do
        kubectl -n days scale deployment many --replicas="$pods" >/dev/null
        kubectl -n days rollout status deployment many --timeout=300s >/dev/null
        kubectl -n days get pods -o 'jsonpath={range .items[*]}{.status.podIP}{"\n"}{end}' | sort | uniq -d |
            { ! grep .; } || fail "an address twice in round $round"
        kubectl -n days scale deployment many --replicas=0 >/dev/null
        await 180 "end of all pods" none_left
    done
}
before=$(traces)
loss "$pods pods up and down, $rounds times" 1 3 churn
await 60 "end of all traces" as_before || { echo "before: $before"; echo "after: $(traces)"; exit 1; }
for node in "${nodes[@]}"; do culvert "$node" ipam check >/dev/null; done
kubectl -n days delete deployment many >/dev/null
