"""Makes a saved image the same whenever and wherever it was built: `docker save … | reproducible.py EPOCH NAME > image.tar`.

Times become EPOCH (seconds, UTC), owners root, members of each layer come in the order of their names, and what only tells
of the build (container ids, the builder's version) goes. The image's id is the digest of its configuration, which names the
digests of its layers: the same content then has the same id. Reads and writes what `docker save` and `docker load` speak.
"""

import datetime
import hashlib
import io
import json
import sys
import tarfile


def member(name, mode, epoch, size=0):
    info = tarfile.TarInfo(name)
    info.mode, info.mtime, info.size = mode, epoch, size
    return info


def relayered(stream, epoch):
    """The same layer with constant times and order; an uncompressed tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="r:*") as old, tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as new:
        for info in sorted(old.getmembers(), key=lambda info: info.name):
            content = old.extractfile(info) if info.isfile() else None
            info.mtime, info.uid, info.gid, info.uname, info.gname, info.pax_headers = epoch, 0, 0, "", "", {}
            new.addfile(info, content)
    return out.getvalue()


def main():
    epoch, name = int(sys.argv[1]), sys.argv[2]
    created = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())) as saved:
        manifest = json.load(saved.extractfile("manifest.json"))[0]
        config = json.load(saved.extractfile(manifest["Config"]))
        layers = [relayered(io.BytesIO(saved.extractfile(path).read()), epoch) for path in manifest["Layers"]]
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config["rootfs"]["diff_ids"] = ["sha256:" + digest for digest in digests]
    config["created"] = created
    for step in config.get("history", []):
        step["created"] = created
    for telling in ("container", "container_config", "docker_version", "moby.buildkit.buildinfo.v1"):
        config.pop(telling, None)
    for only in ("Hostname", "Image"):
        config["config"].pop(only, None)
    text = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    id_ = hashlib.sha256(text).hexdigest()
    paths = [digest + "/layer.tar" for digest in digests]
    index = json.dumps([{"Config": id_ + ".json", "RepoTags": [name], "Layers": paths}]).encode()
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT) as out:
        written = set()
        for path, layer in zip(paths, layers):
            if path in written:
                continue
            written.add(path)
            directory = member(path.split("/")[0], 0o755, epoch)
            directory.type = tarfile.DIRTYPE
            out.addfile(directory)
            out.addfile(member(path, 0o644, epoch, len(layer)), io.BytesIO(layer))
        out.addfile(member(id_ + ".json", 0o644, epoch, len(text)), io.BytesIO(text))
        out.addfile(member("manifest.json", 0o644, epoch, len(index)), io.BytesIO(index))


main()
