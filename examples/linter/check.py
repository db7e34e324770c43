"""Runs in the machine: checks the syntax of every Python and shell file below a folder."""

import os
import subprocess
import sys

folder, findings = sys.argv[1], 0
for root, folders, files in os.walk(folder):
    folders[:] = sorted(name for name in folders if name != ".git")
    for name in sorted(files):
        path = os.path.join(root, name)
        shown = os.path.relpath(path, folder)
        if os.path.islink(path):
            continue
        if name.endswith(".py"):
            try:
                with open(path, "rb") as file:
                    compile(file.read(), shown, "exec")
            except (SyntaxError, ValueError) as fault:
                print(f"{shown}:{getattr(fault, 'lineno', 0) or 0}: {fault.args[0]}")
                findings += 1
        elif name.endswith(".sh"):
            checked = subprocess.run(["sh", "-n", path], stderr=subprocess.PIPE)
            if checked.returncode:
                line = checked.stderr.decode(errors="replace").splitlines()[0]
                print(f"{shown}: {line.removeprefix(path + ': ')}")
                findings += 1
print(f"{findings} findings")
sys.exit(findings > 0)
