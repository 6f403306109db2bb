"""Puts a directory into an image, without an engine: `image.py TREE DOCKERFILE NAME > image.tar`.

What the image says besides (ENV, USER, ENTRYPOINT, CMD) comes from DOCKERFILE's first stage, which has to start from
scratch. The tar is what `docker load` and `ctr images import` take; the same tree gives the same bytes.
"""

import hashlib
import io
import json
import os
import re
import shlex
import sys
import tarfile


def add(out, name, content, mode):
    info = tarfile.TarInfo(name)
    info.mode = mode
    if content is None:
        info.type = tarfile.DIRTYPE
        out.addfile(info)
    else:
        info.size = len(content)
        out.addfile(info, io.BytesIO(content))


def layer(tree):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as out:
        paths = [os.path.join(where, name) for where, dirs, files in os.walk(tree) for name in dirs + files]
        for path in sorted(paths):
            content = None if os.path.isdir(path) else open(path, "rb").read()
            add(out, os.path.relpath(path, tree), content, os.stat(path).st_mode & 0o777)
    return packed.getvalue()


def said(dockerfile):
    """The configuration of its first stage."""
    stage = re.split(r"^FROM .*$", open(dockerfile).read().replace("\\\n", " "), flags=re.MULTILINE)[1]
    config = {}
    for word, rest in re.findall(r"^(ENV|USER|ENTRYPOINT|CMD) (.*)$", stage, flags=re.MULTILINE):
        if word == "ENV":
            config["Env"] = shlex.split(rest)
        else:
            config[word.capitalize()] = rest if word == "USER" else json.loads(rest)
    return config


def main():
    tree, dockerfile, name = sys.argv[1:]
    content = layer(tree)
    digest = hashlib.sha256(content).hexdigest()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": said(dockerfile),
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
    }
    text = json.dumps(config, sort_keys=True).encode()
    id_ = hashlib.sha256(text).hexdigest()
    index = [{"Config": id_ + ".json", "RepoTags": [name], "Layers": [digest + "/layer.tar"]}]
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT) as out:
        add(out, digest, None, 0o755)
        add(out, digest + "/layer.tar", content, 0o644)
        add(out, id_ + ".json", text, 0o644)
        add(out, "manifest.json", json.dumps(index).encode(), 0o644)


main()
