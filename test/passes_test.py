#!/usr/bin/env python3
"""Passes on the real executor: however gradients travel, hashes are those of one process; also where workers die in the
middle of it. That they did travel so is read from the plan, and the messages of every process are counted.

The model's units have several pieces (65,536 numbers), so that chunks are messages of their own.
"""
import os
import re
import signal
import sys
import unittest

from scenarios import Runs

PASSES = ["none", "wait-free", "chunks:1", "chunks:2", "wait-free,chunks:2", "wait-free,chunks:64", "one-owner:0",
          "wait-free,one-owner:1", "one-owner:9,chunks:3"]


class Passes(Runs):
    VERSES = 400
    JOB = ["model.layers=2", "model.dim=128", "model.heads=2", "model.kv_heads=1", "model.context=16", "train.micro_batch=1",
           "train.micro_batches=6", "train.dropout=0.1", "train.warmup=1", "train.lr=1e-2", "run.threads=1",
           "train.eval_every=0", "train.eval_tokens=200", "train.checkpoint_every=0", "run.shadow=false"]

    def expect_plan(self, passes, shape, text):
        """The records of the plan that ran are those of the passes."""
        chunks = re.search(r"chunks:(\d+)", passes)
        owner = re.search(r"one-owner:(\d+)", passes)
        for stage, replicas in enumerate([3] if shape == "1x3" else [1, 2]):
            folds = str(min(int(owner[1]), replicas - 1)) if owner and replicas > 1 else "-"
            count = int(chunks[1]) if chunks else 0
            record = f"sums {stage} {count} {folds}\n"
            self.assertEqual(record in text, count > 0 or folds != "-", (passes, text))
            for worker in re.findall(r"(?m)^list \d+:(.*)", text):
                found = re.findall(rf" {stage}COLL\.reduce(?:/(\d+))?(?= )", worker)
                if re.search(rf" {stage}B", worker):
                    self.assertEqual(found, [str(k) for k in range(count)] if count > 1 else [""], text)
        self.assertEqual(bool(re.search(r"\.l ", text)), "wait-free" in passes, text)

    def test_hashes(self):
        steps = "train.steps=3"
        for i, passes in enumerate(PASSES):
            for shape in (("1x3", "1+2") if i % 2 == 0 else ("1x3",)):
                with self.subTest(passes=passes, shape=shape):
                    name = f"{i}-{shape}"
                    self.end(self.start(name, steps, "run.plan=" + shape, "run.passes=" + passes))
                    self.same(name, steps)
                    self.expect_plan(passes, shape, self.plan(name))

    def messages(self, passes):
        """Parts and roots that each of three replicas sent in a step; all are in one generation."""
        name, steps = "count-" + passes, 3
        self.end(self.start(name, f"train.steps={steps}", "run.plan=1x3", "run.passes=" + passes,
                            env={"BRIGADE_POINTS": self.path(name + ".points")}))
        found = [[0, 0] for _ in range(3)]
        with open(self.path(name + ".points")) as lines:
            for process, point, count in map(str.split, lines):
                kind = {"before-send-part": 0, "before-send-root": 1}.get(point)
                if kind is not None:
                    found[int(process[-1])][kind] = max(found[int(process[-1])][kind], int(count))
        for counts in found:
            for count in counts:
                self.assertEqual(count % steps, 0, found)
        return [tuple(count // steps for count in counts) for counts in found]

    def test_messages(self):
        """Each replica has one node of the tree. Two blocks of `pieces` each, and buckets of a piece."""
        (owner, other, third) = self.messages("one-owner:0,chunks:1")
        buckets = other[0]
        self.assertEqual((owner, other, third), ((0, 2 * buckets), (buckets, 0), (buckets, 0)))
        (owner, other, third) = self.messages("wait-free,one-owner:0")
        pieces = (other[0] - buckets) // 2 + 1
        self.assertEqual(other[0], buckets + 2 * (pieces - 1))
        self.assertGreaterEqual(pieces, 3)
        self.assertEqual((owner, third), ((0, 2 * other[0]), other))
        for passes in ("one-owner:2,chunks:2", "wait-free,one-owner:2,chunks:2"):
            self.assertEqual(self.messages(passes),
                             [(buckets + 2, 0), (buckets + 2, 0), (0, 2 * (buckets + 2))], passes)
        for chunks in (2, 3, 64):  # in turns: each message is folded by one and sent by two, its root the other way
            runs = buckets - 2 + 2 * min(chunks, pieces)
            found = self.messages(f"wait-free,chunks:{chunks}")
            self.assertEqual([sum(counts[k] for counts in found) for k in (0, 1)], [2 * runs, 2 * runs])
            self.assertTrue(all(root > 0 for _, root in found), found)

    def test_kills(self):
        """kill -9 in the middle, twice: the rest of a step goes on with the same messages and owners."""
        steps = "train.steps=70"
        for i, passes in enumerate(("one-owner:0,chunks:2", "wait-free,one-owner:1,chunks:3")):
            with self.subTest(passes=passes):
                name = f"kill{i}"
                process = self.start(name, steps, "run.plan=1x3", "run.passes=" + passes, "run.shadow=true",
                                     "run.heartbeat_ms=60000")
                for count, who in ((10, "worker0"), (35, "worker1")):
                    self.wait_steps(name, count, process)
                    os.kill(self.pid(name, who), signal.SIGKILL)
                self.end(process)
                found = self.same(name, steps)
                self.assertEqual(found["deaths"], 2)
                self.assertLessEqual(found["steps_redone"], 2)

    def test_refused(self):
        for passes, words in (("chunks:0", ("run.passes", "chunks[:1..64]")), ("factors", ("run.passes", "bits")),
                              ("chunks", ("run.passes", "a number behind", "brigade plan")),
                              ("tree", ("run.passes", "wait-free"))):
            err = self.end(self.start("refused", "train.steps=1", "run.plan=1x2", "run.passes=" + passes), 78)
            for word in words:
                self.assertIn(word, err)
            self.assertFalse(os.path.exists(self.path("refused")))


if __name__ == "__main__":
    sys.exit(unittest.main())
