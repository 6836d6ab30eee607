# Sourced: `docker` and `compose` as functions, whatever this machine has: an engine that root alone
# may use, Compose v2 as a plugin of the client, or v1 as a program of its own.

if command docker version >/dev/null 2>&1; then
    # Not nothing: the functions below are to find the program, and not themselves.
    as_owner=(env)
elif [ "$(id -u)" != 0 ] && sudo -n docker version >/dev/null 2>&1; then
    as_owner=(sudo -E)
else
    echo "no container engine answers here: \`deploy/prerequisites compose\` installs and starts one" >&2
    exit 1
fi

if "${as_owner[@]}" docker compose version >/dev/null 2>&1; then
    compose_program=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose_program=(docker-compose)
else
    echo "Compose is missing: \`deploy/prerequisites compose\` installs it" >&2
    exit 1
fi

docker() {
    "${as_owner[@]}" docker "$@"
}

compose() {
    # Without a terminal on standard input, so that scripts can read lists around it.
    "${as_owner[@]}" "${compose_program[@]}" "$@" </dev/null
}
