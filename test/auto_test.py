#!/usr/bin/env python3
"""run.plan=auto: one stage while a worker holds the model and there are micro-batches for all, else pipelines; chosen
again when workers are lost; items in proportion to run.speeds. The same bits as one process, always.

Runs the built command (BRIGADE) on a tiny corpus of its own.
"""
import collections
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
HASHES = ("curve_sha256", "weights_sha256", "signature_sha256")
TINY = ["model.layers=4", "model.dim=64", "model.heads=2", "model.context=64", "train.micro_batch=2",
        "train.micro_batches=8", "train.warmup=2", "train.lr=1e-2", "train.eval_every=0", "train.eval_tokens=200",
        "train.checkpoint_every=0", "run.threads=1"]
HANG_S = 300


class Auto(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="brigade-auto-")
        with open(cls.path("corpus.txt"), "w") as out:
            for i in range(300):
                out.write(f"verse {i}: and the {i % 17} ships went over the water, {i * 7 % 23} by {i % 5}.\n")
        cls.single = {}

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    @classmethod
    def path(cls, *names):
        return os.path.join(cls.dir, *names)

    def start(self, name, *keys):
        return subprocess.Popen([BRIGADE, "train", self.path("corpus.txt"), "run.dir=" + self.path(name), *TINY, *keys],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self, process, code=0):
        try:
            text, _ = process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            process.kill()
            self.fail("hangs")
        self.assertEqual(process.returncode, code, text)
        return text

    def result(self, name):
        with open(self.path(name, "result.json")) as file:
            return json.load(file)

    def same(self, name, steps):
        if steps not in self.single:
            self.end(self.start(f"single-{steps}", f"train.steps={steps}", "run.shadow=false"))
            self.single[steps] = self.result(f"single-{steps}")
        for key in HASHES:
            self.assertEqual(self.result(name)[key], self.single[steps][key], (name, key))

    def plan(self, name):
        """Workers of each stage, and how many items each worker has at each stage."""
        stages, shares = collections.Counter(), collections.defaultdict(collections.Counter)
        with open(self.path(name, "plan.txt")) as lines:
            for words in map(str.split, lines):
                if words[:1] == ["seat"]:
                    stages[int(words[2])] += 1
                elif words[:1] == ["mbmap"]:
                    shares[int(words[1])][words[3]] += 1
        return ([stages[s] for s in sorted(stages)], [sorted(shares[s].values()) for s in sorted(shares)])

    def test_shapes(self):
        for name, workers, keys, stages_min in (("two", 2, [], 1),
                                                ("many", 6, ["run.group=2"], 2),
                                                ("small", 4, ["run.memory_gb=0.0042"], 2),
                                                ("smaller", 4, ["run.memory_gb=0.0027"], 2)):
            text = self.end(self.start(name, "train.steps=4", f"run.workers={workers}", *keys))
            found, _ = self.plan(name)
            self.assertEqual(sum(found), workers)
            self.assertGreaterEqual(len(found), stages_min, name)
            if name == "two" and os.cpu_count() > 1:
                self.assertEqual(found, [2])
            stages = f"{len(found)} stage" + ("s" if len(found) > 1 else "")
            self.assertIn(f"plan: {sum(found)} workers, {'+'.join(map(str, found))} at {stages}", text)
            self.same(name, 4)

    def test_speeds(self):
        for name, keys, shares in (("half", ["run.plan=1x2", "run.speeds=1,0.34", "run.group=1"], [[2, 6]]),
                                   ("three", ["run.plan=1x3", "run.speeds=1,1,2", "run.group=1"], [[2, 2, 4]]),
                                   ("given", ["run.plan=2x2", "run.speeds=3,1,1,1", "run.group=1"], [[2, 6], [4, 4]])):
            self.end(self.start(name, "train.steps=4", *keys))
            self.assertEqual(self.plan(name)[1], shares, name)
            self.same(name, 4)

    def test_chosen_again(self):
        """Of four workers, of which none holds more than half of the model, two are lost and not replaced."""
        process = self.start("again", "train.steps=150", "run.workers=4", "run.memory_gb=0.0042",
                             "run.respawn=false", "run.shadow=false", "run.speeds=1,1,1,0.5")
        deadline = time.monotonic() + HANG_S
        pids = {}
        steps = self.path("again", "steps.jsonl")
        while not os.path.exists(steps) or os.path.getsize(steps) < 2000:
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        with open(self.path("again", "events.jsonl")) as lines:
            for event in map(json.loads, lines):
                if event["event"] == "spawned":
                    pids[event["name"]] = event["process"]
        for name in ("worker0", "worker1"):
            os.kill(pids[name], signal.SIGKILL)
        self.end(process)
        self.same("again", 150)
        with open(self.path("again", "events.jsonl")) as lines:
            shapes = [event["shape"] for event in map(json.loads, lines) if "shape" in event]
        stages, _, replicas = shapes[0].partition("x")
        self.assertEqual(int(stages) * int(replicas) if replicas else sum(map(int, stages.split("+"))), 4)
        self.assertEqual(shapes[-1], "2x1")

    def test_refusals(self):
        for keys, texts in ((["run.workers=4", "run.memory_gb=0.001"],
                             ["run.plan=auto", "unit 1 (block) needs", "give a machine"]),
                            (["run.workers=4", "run.memory_gb=0.0015"], ["no plan fits", "times the memory"]),
                            (["run.workers=3", "run.speeds=1,1"], ["run.speeds", "fewer speeds than the 3 workers"]),
                            (["run.workers=1", "run.speeds=1,1"], ["run.speeds", "more speeds than the 1 workers"]),
                            (["run.workers=2", "run.speeds=1,-1"], ["run.speeds", "numbers from 0.001"]),
                            (["run.workers=2", "run.speeds=1,fast"], ["run.speeds", "numbers from 0.001"])):
            text = self.end(self.start("refused", "train.steps=4", *keys), 78)
            for wanted in texts:
                self.assertIn(wanted, text)
            shutil.rmtree(self.path("refused"), ignore_errors=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
