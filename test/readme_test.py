#!/usr/bin/python3
"""The numbers that the README promises: runs the commands of its "expected number" block and compares the hash it states."""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))


def main():
    readme = open(f"{ROOT}/README.md").read()
    block = re.search(r"<!-- expected -->\n```\n(.*?)```", readme, re.S).group(1)
    want = re.search(r"curve_sha256 +([0-9a-f]{64})", block).group(1)
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    with tempfile.TemporaryDirectory() as directory:
        text = ""
        for command in commands:
            command = command.replace("build/brigade", BRIGADE).replace("tools/corpus", f"{ROOT}/tools/corpus")
            done = subprocess.run(command, shell=True, cwd=directory, capture_output=True, text=True, timeout=300)
            if done.returncode:
                sys.exit(f"{command}: exit {done.returncode}\n{done.stderr}")
            text += done.stdout
    got = re.search(r"curve_sha256 +([0-9a-f]{64})", text).group(1)
    if got != want:
        sys.exit(f"the README states {want}, this build computes {got}")
    print(f"as the README states: {got}")


if __name__ == "__main__":
    main()
