#!/usr/bin/python3
"""What `brigade export` writes, others read: the same greedy tokens from PyTorch (interop_torch.py) for safetensors and
for GGUF in F32, Q8_0 and Q4_0, and from llama.cpp (interop_llama.mjs) for GGUF. stories260K is the model. Skipped where
it is missing; a peer that is missing is left out by name. llama.cpp comes from BRIGADE_NODE_MODULES, a directory where
`npm install node-llama-cpp` was done before."""
import json
import os
import shutil
import subprocess
import sys
import unittest

import serving

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"  # Debian's has python3-torch
PROMPT, COUNT = "Once upon a time", 100
NODE = os.environ.get("BRIGADE_NODE_MODULES", "")


def has_torch():
    return subprocess.run([PYTHON, "-c", "import torch, numpy"], capture_output=True).returncode == 0


def has_llama():
    return shutil.which("node") and os.path.isdir(os.path.join(NODE, "node_modules", "node-llama-cpp"))


class Interop(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = serving.scratch("interop")
        cls.addClassCleanup(serving.remove, cls.directory)
        cls.models = {"safetensors": serving.stories(cls.directory)}
        for weights in ("f32", "q8_0", "q4_0"):
            cls.models[weights] = os.path.join(cls.directory, weights + ".gguf")
            serving.run("export", cls.models["safetensors"], "--to", "gguf", "--weights", weights, "--out", cls.models[weights])
        cls.ours, cls.ids, cls.text = {}, {}, {}
        for name, path in cls.models.items():
            server = serving.Server(path)
            status, tokens = server.post("/tokenize", {"content": PROMPT, "add_special": True})
            assert status == 200, tokens
            status, answer = server.post("/v1/completions", {"prompt": PROMPT, "temperature": 0, "max_tokens": COUNT,
                                                             "return_tokens": True, "ignore_eos": True})
            assert status == 200, answer
            cls.ids[name], choice = tokens["tokens"], answer["choices"][0]
            cls.ours[name], cls.text[name] = choice["tokens"], choice["text"]
            server.stop()

    def test_ours_agree(self):
        self.assertEqual(self.ours["safetensors"], self.ours["f32"])
        self.assertEqual(len(set(map(tuple, self.ids.values()))), 1)
        self.assertNotEqual(self.ours["f32"], self.ours["q4_0"])  # four bits show
        sizes = [os.path.getsize(self.models[name]) for name in ("f32", "q8_0", "q4_0")]
        self.assertEqual(sizes, sorted(sizes, reverse=True))

    @unittest.skipUnless(has_torch(), "needs Debian's python3-torch and python3-numpy")
    def test_torch(self):
        for name, path in self.models.items():
            ids = self.ids[name] + self.ours[name][:-1]  # each of our tokens is the likeliest after those before it
            done = subprocess.run([PYTHON, os.path.join(HERE, "interop_torch.py"), path, *map(str, ids)], capture_output=True,
                                  text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual([int(i) for i in done.stdout.split()][len(self.ids[name]) - 1:], self.ours[name], name)

    @unittest.skipUnless(has_llama(), "needs node, and node-llama-cpp in BRIGADE_NODE_MODULES")
    def test_llama_cpp(self):
        for name in ("f32", "q8_0", "q4_0"):
            done = subprocess.run(["node", os.path.join(HERE, "interop_llama.mjs"), NODE, self.models[name], str(COUNT), PROMPT],
                                  capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            theirs = json.loads(done.stdout.strip().split("\n")[-1])
            self.assertEqual(theirs["prompt"], self.ids[name])
            # Their products with quantised weights round the activations to bytes as well: another near tie, in time.
            count = COUNT if name == "f32" else 16
            self.assertEqual(theirs["ids"][:count], self.ours[name][:count], name)
            if name == "f32":
                self.assertEqual(theirs["text"], self.text[name])


if __name__ == "__main__":
    if not os.path.exists(serving.STORIES):
        print("skipped: no stories260K in ../shared (BRIGADE_SHARED)")
        sys.exit(77)
    if not (has_torch() or has_llama()):
        print("skipped: neither python3-torch nor node-llama-cpp is there")
        sys.exit(77)
    unittest.main(verbosity=1)
