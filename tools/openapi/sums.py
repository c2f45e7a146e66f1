#!/usr/bin/env python3
"""Sums of the OpenAPI documents of a running kube-apiserver, for crates/api/testdata/openapi.txt.

    sums.py https://127.0.0.1:6443 TOKEN > crates/api/testdata/openapi.txt

The server runs with its defaults (tools/kinds/README.md says how upstream's is built). A sum tells whether a document
is the same but for descriptions, and for the order of parameters and of words in lists; no text of upstream's gets
into the file. `--show FOLDER` writes what is summed, to find a difference with diff.
"""

import json
import os
import ssl
import sys
import urllib.request


def canonical(value):
    if isinstance(value, dict):
        return {k: canonical(v) for k, v in value.items() if not (k == "description" and isinstance(v, str))}
    if isinstance(value, list):
        items = [canonical(item) for item in value]
        if all(isinstance(item, str) for item in items):
            return sorted(items)
        if all(isinstance(item, dict) and "in" in item for item in items):
            return sorted(items, key=lambda item: (item["name"], item["in"]))
        return items
    return value


def resolved(value, parameters):
    """Puts the shared parameters of version 2 where they are referred to."""
    if isinstance(value, dict):
        target = value.get("$ref", "")
        if isinstance(target, str) and target.startswith("#/parameters/"):
            return parameters[target.split("/")[-1]]
        return {k: resolved(v, parameters) for k, v in value.items()}
    if isinstance(value, list):
        return [resolved(item, parameters) for item in value]
    return value


def fnv(data):
    total = 0xCBF29CE484222325
    for byte in data:
        total = ((total ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{total:016x}"


def main(server, token, folder=None):
    context = ssl._create_unverified_context()

    def get(path):
        request = urllib.request.Request(server + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, context=context) as answer:
            return json.load(answer)

    parts = {}
    for name, place in get("/openapi/v3")["paths"].items():
        document = get(place["serverRelativeURL"])
        parts[f"{name} paths"] = document["paths"]
        parts[f"{name} schemas"] = document["components"].get("schemas", {})
    document = get("/openapi/v2")
    parts["v2 paths"] = resolved(document["paths"], document.get("parameters", {}))
    for name in sorted(parts):
        text = json.dumps(canonical(parts[name]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        print(fnv(text.encode()), name)
        if folder:
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, name.replace("/", "__") + ".json"), "w") as out:
                json.dump(json.loads(text), out, indent=1, sort_keys=True)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--show"]
    if len(arguments) not in (2, 3):
        sys.exit(__doc__)
    main(*arguments)
