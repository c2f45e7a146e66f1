# 1: kernels that lack something, before anything of ours has run. Sourced by run.sh.

is_loaded() { grep -q "^$1 " /proc/modules; }
# refuses WORDS: `ondol up` says one sentence with these words, and leaves nothing.
refuses() {
    if ondol --instance lacking up >"$scratch/refused" 2>&1; then
        because "it was taken: $(tail -n 1 "$scratch/refused")"
        ondol --instance lacking down --wipe --yes
        return 1
    fi
    local said left; said=$(grep -v '^✓' "$scratch/refused")
    equals "$(grep -c . <<<"$said")" 1 || { because "not one sentence: $(head -c 600 <<<"$said" | tr '\n' ' ')"; return 1; }
    has "$said" "$1" || return 1
    left=$(find /var/lib/ondol /run/ondol /sys/fs/cgroup /root/.kube -path '*ondol*' 2>/dev/null; ip -o link | grep lacking)
    ! is_loaded nf_tables || left+=$(nft list tables)
    [ -z "$left" ] || because "left behind: $left"
}
# without MODULE WORDS: the kernel does not find one of its modules.
without() {
    ! is_loaded "$1" || { because "$1 is loaded already"; return 1; }
    echo "install $1 /bin/false" >/etc/modprobe.d/lacking.conf
    refuses "$2"
    local done=$?
    rm /etc/modprobe.d/lacking.conf
    return $done
}
# In the order in which a start asks for them, for it loads what is there.
lacking() {
    point lacking.bridge without bridge "modprobe bridge"
    point lacking.veth without veth "modprobe veth"
    point lacking.nf_tables without nf_tables "modprobe nf_tables"
    point lacking.overlay without overlay "modprobe overlay"
    point lacking.nft_nat without nft_nat "modprobe nft_nat"
}
