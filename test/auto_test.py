#!/usr/bin/env python3
"""run.plan=auto: one stage while a worker holds the model and there are micro-batches for all, else pipelines; chosen
again when workers are lost; items in proportion to run.speeds. The same bits as one process, always.

Runs the built command (BRIGADE) on a tiny corpus of its own.
"""
import collections
import os
import shutil
import signal
import unittest

from scenarios import Runs


class Auto(Runs):
    VERSES = 300
    FLAGS = []
    JOB = ["model.layers=4", "model.dim=64", "model.heads=2", "model.context=64", "train.micro_batch=2",
           "train.micro_batches=8", "train.warmup=2", "train.lr=1e-2", "train.eval_every=0", "train.eval_tokens=200",
           "train.checkpoint_every=0", "run.threads=1"]

    def same(self, name, steps):
        super().same(name, f"train.steps={steps}", "run.shadow=false")

    def seats(self, name):
        """Workers of each stage, and how many items each worker has at each stage."""
        stages, shares = collections.Counter(), collections.defaultdict(collections.Counter)
        for words in map(str.split, self.plan(name).splitlines()):
            if words[:1] == ["seat"]:
                stages[int(words[2])] += 1
            elif words[:1] == ["mbmap"]:
                shares[int(words[1])][words[3]] += 1
        return ([stages[s] for s in sorted(stages)], [sorted(shares[s].values()) for s in sorted(shares)])

    def test_shapes(self):
        for name, workers, keys, stages_min in (("two", 2, [], 1),
                                                ("many", 6, ["run.group=2"], 2),
                                                ("small", 4, ["run.memory_gb=0.0109"], 2),
                                                ("smaller", 4, ["run.memory_gb=0.0094"], 3)):
            text = self.end(self.start(name, "train.steps=4", f"run.workers={workers}", *keys))
            found, _ = self.seats(name)
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
            self.assertEqual(self.seats(name)[1], shares, name)
            self.same(name, 4)

    def test_chosen_again(self):
        """Of four workers, of which none holds more than half of the model, two are lost and not replaced."""
        process = self.start("again", "train.steps=150", "run.workers=4", "run.memory_gb=0.0109",
                             "run.respawn=false", "run.shadow=false", "run.speeds=1,1,1,0.5")
        self.wait_steps("again", 8, process)
        for name in ("worker0", "worker1"):
            os.kill(self.pid("again", name), signal.SIGKILL)
        self.end(process)
        self.same("again", 150)
        shapes = [event["shape"] for event in self.events("again") if "shape" in event]
        stages, _, replicas = shapes[0].partition("x")
        self.assertEqual(int(stages) * int(replicas) if replicas else sum(map(int, stages.split("+"))), 4)
        self.assertEqual(shapes[-1], "2x1")

    def test_refusals(self):
        for keys, texts in ((["run.workers=4", "run.memory_gb=0.007"],
                             ["run.plan=auto", "unit 1 (block) needs", "give a machine"]),
                            (["run.workers=4", "run.memory_gb=0.008"], ["no plan fits", "times the memory"]),
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
