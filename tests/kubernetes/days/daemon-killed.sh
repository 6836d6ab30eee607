# The daemon dies, and the kubelet starts it again.

kill_daemon() {
    local process
    process=$(daemon_process 3)
    kill -KILL "$process"
    await 10 "end of the daemon" has_ended "$process"
    await 60 "ready daemon" is_ready 3
}
loss "daemon killed" 1 3 kill_daemon
rolled_out
