#!/usr/bin/env python3
"""Makes an image of a folder, without a daemon and without a registry: a tar file with an OCI layout, which
`ctr image import`, `skopeo copy oci-archive:`, `podman load` and `docker load` take.

    deploy/image/layout.py --name shop:0.1.0 --entrypoint /shop --out shop.tar FOLDER

The same folder makes the same bytes: times and owners are not those of the files.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def main():
    options = parse()
    layer = layer_of(options.folder)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, compresslevel=6) as file:
        file.write(layer)
    blobs = {}
    packed = keep(blobs, packed.getvalue(), "application/vnd.oci.image.layer.v1.tar+gzip")
    config = keep(blobs, to_json(config_of(options, digest(layer))), "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [packed],
        "annotations": labels_of(options),
    }
    manifest = keep(blobs, to_json(manifest), manifest["mediaType"])
    # containerd goes by the first name, all others by the second.
    manifest["annotations"] = {
        "io.containerd.image.name": options.name,
        "org.opencontainers.image.ref.name": options.name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}
    write(options.out, blobs, to_json(index))
    print(f"{options.out}: {options.name}, {os.path.getsize(options.out) / 1e6:.1f} MB, {len(layer) / 1e6:.1f} MB unpacked")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--name", required=True, help="as in registry.example/shop:0.1.0")
    parser.add_argument("--entrypoint", required=True, nargs="+", help="the program, and what comes before its arguments")
    parser.add_argument("--user", default="65532:65532")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", required=True)
    parser.add_argument("folder")
    return parser.parse_args()


def layer_of(folder):
    """All of the folder as a tar file, in the order of names."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(paths_below(folder)):
            tar.add(path, arcname=os.path.relpath(path, folder), recursive=False, filter=without_origin)
    return out.getvalue()


def paths_below(folder):
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            yield os.path.join(place, name)


def without_origin(member):
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def config_of(options, layer):
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    return {
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": options.user,
            "Entrypoint": options.entrypoint,
            "Env": ["PATH=/"],
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": labels_of(options),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    }


def labels_of(options):
    return dict(label.split("=", 1) for label in options.label)


def keep(blobs, data, kind):
    blobs[digest(data)] = data
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def to_json(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def write(out, blobs, index):
    files = {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    files.update((f"blobs/sha256/{name.partition(':')[2]}", data) for name, data in blobs.items())
    with tarfile.open(out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main()
