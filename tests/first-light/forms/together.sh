# The form of `ondol up`: server and agent are one process. Sourced by tests/first-light/frame.sh.

raise_house() { :; }
ondol() { timeout 120 "$ONDOL" --instance "$instance" "$@"; }
# The command in each network namespace of the house.
in_networks() { "$@"; }
# Process ids of each set of processes that is killed, one set a line.
kill_sets() { server_pid; }
server_pid() { cat "/run/ondol/$instance/lock"; }
# As a service manager starts it.
up_in_foreground() {
    setsid "$ONDOL" --instance "$instance" up --foreground >>"/var/lib/ondol/$instance/ondol.log" 2>&1 &
    within 60 is_up "$instance"
}
