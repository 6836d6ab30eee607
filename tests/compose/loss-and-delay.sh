# The underlay loses one packet in fifty and delays the others: pods notice, and nothing breaks.

make_lossy
target=$(on node3 ip -4 -o addr show dev eth0 | sed 's/.*inet \([0-9.]*\).*/\1/')
# The underlay itself, so that what follows is known to be tested under these conditions.
underlay=$(on node1 ping -n -q -c 300 -i 0.01 -W 2 "$target" || true)
grep -Eq ' [1-9][0-9.]*% packet loss' <<<"$underlay" || fail "the underlay loses nothing: $underlay"
grep -Eq 'min/avg/max/mdev = ([2-9][0-9]|[1-9][0-9]{2,})\.' <<<"$underlay" || fail "the underlay is not late: $underlay"
echo "underlay: $(grep -o '[0-9.]*% packet loss' <<<"$underlay"), $(grep min <<<"$underlay")"

start_stream node1 node3
# Of three pings one comes through: that all three are lost is one case in fifteen thousand.
assert_all_talk 3 >/dev/null
sleep 3
finish_stream
make_clean
assert_all_talk >/dev/null
