#!/usr/bin/env python3
"""Prints the licences of every crate that is linked into moed, with their texts: most of them ask for that in a copy.

    cross/deb/notices.py TARGET

A text that several crates share stands once. Reads what cargo has fetched; a crate without a licence file is named with
its licence's name alone, and one without either ends the program.
"""

import json
import subprocess
import sys
from pathlib import Path

FILES = ("licen", "copying", "notice", "copyright", "unlicense")


def linked(metadata):
    """The packages that the program is linked from: what `moed` needs, and what that needs, without build and test tools."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    found, open_ = set(), [root]
    while open_:
        here = open_.pop()
        if here in found:
            continue
        found.add(here)
        for edge in nodes[here]["deps"]:
            if any(kind["kind"] is None for kind in edge["dep_kinds"]):
                open_.append(edge["pkg"])
    found.discard(root)
    chosen = [packages[identity] for identity in found]
    # A procedural macro runs in the compiler; nothing of it is in the program.
    chosen = [package for package in chosen if not any("proc-macro" in target["kind"] for target in package["targets"])]
    return sorted(chosen, key=lambda package: (package["name"], package["version"]))


def texts(package):
    """The licence files of a crate, in its top folder."""
    folder = Path(package["manifest_path"]).parent
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(FILES))
    return ["\n".join(path.read_text(errors="replace").split("\r\n")).strip() for path in files]


def main():
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={sys.argv[1]}"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    users = {}
    print("moed is linked from these crates, under these licences. Their texts follow, each once.\n")
    for package in linked(metadata):
        name = f"{package['name']} {package['version']}"
        licence = package["license"] or package["license_file"]
        if not licence:
            sys.exit(f"error: `{name}` states no licence")
        print(f"{name}: {licence}")
        for text in texts(package):
            users.setdefault(text, []).append(name)
    for text, names in users.items():
        print(f"\n{'-' * 72}\n{', '.join(names)}\n\n{text}")


main()
