# 2: the demo images, and images made by hand. Sourced by tests/first-light.sh.

images_are_carried() {
    local out; out=$(ondol image list 2>&1) || { because "$out"; return 1; }
    has "$out" ondol.local/echo
}
image_saves() { ondol image save ondol.local/echo:v1 >"$scratch/echo.tar" && tar -tf "$scratch/echo.tar" >/dev/null; }
# An image with the machine's static busybox, in the form of `docker save`.
import_busybox() {
    local folder="$scratch/busybox" layer config
    mkdir -p "$folder/root/bin" "$folder/root/tmp" && cp "$(command -v busybox)" "$folder/root/bin/busybox"
    ln -s busybox "$folder/root/bin/tar"
    tar -C "$folder/root" -cf "$folder/layer.tar" . || return 1
    layer=$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(dpkg --print-architecture)" "$layer" >"$folder/config.json"
    printf '[{"Config":"config.json","RepoTags":["ondol.local/first-light/busybox:1"],"Layers":["layer.tar"]}]' >"$folder/manifest.json"
    tar -C "$folder" -cf "$folder/image.tar" manifest.json config.json layer.tar || return 1
    local out; out=$(ondol image import "$folder/image.tar" 2>&1) || because "$out"
}
point_2() {
    point 2.images images_are_carried
    point 2.import import_busybox
    point 2.save image_saves
}
