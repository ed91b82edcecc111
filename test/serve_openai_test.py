#!/usr/bin/python3
"""OpenAI's own client (npm) against `brigade serve`: serve_openai.mjs. The client is installed into a directory of the
test's own; skipped where node, the registry or stories260K is missing."""
import os
import shutil
import subprocess
import sys

import serving


def main():
    directory = serving.scratch("openai")
    try:
        if not (shutil.which("node") and shutil.which("npm")):
            return skip("needs node and npm")
        model = serving.stories(directory)
        if not model:
            return skip("needs stories260K in ../shared")
        modules = os.environ.get("BRIGADE_NODE_MODULES")  # a directory where `npm install openai` was done before
        if not modules:
            modules = os.path.join(directory, "npm")
            os.mkdir(modules)
            done = subprocess.run(["npm", "install", "--prefix", modules, "--no-audit", "--no-fund", "--loglevel=error", "openai@^6"],
                                  cwd=modules, capture_output=True, timeout=240)
            if done.returncode:
                return skip("npm cannot install openai: " + done.stderr.decode()[-300:])
        server = serving.Server(model, "--threads", "1", "--name", "stories", "--slots", "4", "--queue", "40", key="a-key")
        try:
            return subprocess.run(["node", os.path.join(os.path.dirname(os.path.abspath(__file__)), "serve_openai.mjs"),
                                   f"http://127.0.0.1:{server.port}", "a-key", modules], timeout=240).returncode
        finally:
            server.ends_well()
    finally:
        serving.remove(directory)


def skip(why):
    print("skipped:", why)
    return 77


if __name__ == "__main__":
    sys.exit(main())
