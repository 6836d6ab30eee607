# `culvert ui compose`: its page knows all nodes, who answers whom, and a daemon that dies, comes back and is
# made anew.

page=$(mktemp -d)
"${as_owner[@]}" "$CULVERT" ui compose --project "$COMPOSE_PROJECT_NAME" >"$page/address" &
ui=$!
trap 'kill "$ui" 2>/dev/null || true; rm -rf "$page"' EXIT
await "$SOON" "the address of the page" grep -q . "$page/address"
address=$(head -n 1 "$page/address")
port=${address#http://127.0.0.1:} token=${address#*#}
port=${port%%/*}

# request PATH: opens a connection to the page's server and asks it, as a browser does.
request() {
    exec 9<>"/dev/tcp/127.0.0.1/$port"
    printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n' \
        "$1" "$port" "$token" >&9
}

request /
grep -q "<title>Culvert</title>" <(timeout 10 cat <&9) || fail "there is no page"

# What the page is told, a line for each difference; from the last one on, what is new.
request /events
cat <&9 >"$page/events" &
is_told() {
    tail -n "+$told" "$page/events" | grep -q "$1"
}
told=1
for pair in 1 2 3; do
    await "$SOON" "node$pair to be ready" is_told "\"node$pair\":{[^}]*\"state\":\"ready\""
    await "$SOON" "node$pair to answer" is_told "node[123]\\\\tnode$pair\":{[^}]*\"state\":\"answers\""
done

two=$(address node2 pod1)
told=$(wc -l <"$page/events")
compose kill -s KILL daemon2 >/dev/null 2>&1
await "$SOON" "the end of daemon2 to be told" is_told "node2: Error response from daemon: .*is not running"
is_missed() {
    cut_off node1 pod1 "$two" && is_told 'node2 does not answer'
}
await "$SOON" "the others to miss it" is_missed

# Under the same name, and another container.
told=$(wc -l <"$page/events")
compose up -d --no-deps --force-recreate daemon2 >/dev/null 2>&1
await "$SOON" "daemon2 to be ready again" is_ready daemon2
await "$SOON" "node2 to be ready" is_told '"node2":{[^}]*"state":"ready"'
assert_all_talk >/dev/null
kill "$ui"
