#!/usr/bin/env python3
"""Every schedule that the command knows, on several workers each, gives the hashes of one process; slices and all.

Runs the built command (BRIGADE) on a tiny corpus of its own. The names are asked of the command, so that a new schedule
is tested as well.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unittest

from builds import is_release
from scenarios import BRIGADE, HANG_S, Runs

SHORT = ["train.steps=3"]
SHAPES = ["2x1", "1+2", "3x1", "2x2"]  # three stages of two chunks: every unit is one


class Schedules(Runs):
    VERSES = 400
    JOB = ["model.layers=4", "model.dim=8", "model.heads=2", "model.kv_heads=1", "model.context=130", "train.micro_batch=2",
           "train.micro_batches=5", "train.dropout=0.1", "train.warmup=1", "train.lr=1e-2", "run.threads=1",
           "train.eval_every=0", "train.eval_tokens=300", "train.checkpoint_every=0", "run.shadow=false"]

    def names(self):
        """From the refusal of a name that is none: ("1f1b", ""), ("seq1f1b", "SLICES"), ..."""
        done = subprocess.run([BRIGADE, "train", self.path("corpus.txt"), "run.schedule=none", *self.JOB], text=True,
                              capture_output=True, timeout=HANG_S)
        self.assertNotEqual(done.returncode, 0)
        found = re.findall(r"([a-z0-9-]+)(?:\[:([A-Z]+)\])?(?:, | or |$)", done.stderr.split("expected ")[1].split("\n")[0])
        self.assertIn(("1f1b", ""), found, done.stderr)
        return found

    def test_every_schedule(self):
        runs = []
        for i, (name, number) in enumerate(self.names()):
            runs += [(name, shape) for shape in ("2x1", SHAPES[1 + i % 3])]
            if number:
                runs.append((name + ":3", SHAPES[i % 2]))
        self.assertGreater(len(runs), 18)
        for schedule, shape in runs:
            with self.subTest(schedule=schedule, shape=shape):
                name = f"{schedule}-{shape}"
                self.end(self.start(name, *SHORT, "run.plan=" + shape, "run.schedule=" + schedule))
                self.same(name, *SHORT)
                plan = self.plan(name)
                slices = re.search(r" slices (\d+)\n", plan)
                self.assertEqual(slices and slices[1], {"seq1f1b": "2", "seq1f1b:3": "3"}.get(schedule), plan)
                if schedule.startswith("zb"):
                    self.assertRegex(plan, r" \d+W\d+")
                shutil.rmtree(self.path(name))

    def test_kill_in_slices(self):
        self.kill_in("seq1f1b:3")
        self.assertIn(" slices 3\n", self.plan("kill-seq1f1b:3"))

    def test_kill_in_ranges(self):
        self.kill_in("distmm:2")

    def test_offload(self):
        """Stashes that wait on disk: the same bits, nothing left behind, a directory that is none said by name."""
        left = None
        for schedule, shape in (("gpipe", "2x1"), ("zb-2p", "3x1"), ("seq1f1b", "1+2"), ("interleaved", "2x1")):
            name = f"off-{schedule}"
            for keys in ([], ["run.offload=true"]):
                self.end(self.start(name, *SHORT, "run.plan=" + shape, "run.schedule=" + schedule, *keys))
                self.same(name, *SHORT)
                plan, names = self.plan(name), sorted(os.listdir(self.path(name)))
                self.assertEqual(bool(re.search(r" \d+F\d+(/\d+)?\.o ", plan)), bool(keys), plan)
                left = left or names
                self.assertEqual(names, left)
                shutil.rmtree(self.path(name))
        nowhere = self.path("nowhere")
        err = self.end(self.start("homeless", *SHORT, "run.plan=2x1", "run.offload=true", "run.scratch=" + nowhere), 73)
        self.assertIn(nowhere, err)
        self.assertIn("run.scratch", err)
        err = self.end(self.start("both", *SHORT, "run.plan=2x1", "run.offload=true", "run.recompute=true"), 78)
        self.assertIn("expected one of them", err)

    def test_what_the_planner_offloads_runs(self):
        """A machine with little memory and a cheap disk: the planner's keys give the same hashes, and what they say."""
        block = "forward_s 1e-3 input_s 1e-3 weight_s 1e-3 parameter_bytes 3000 stash_bytes 50000 cut_bytes 8320"
        with open(self.path("profile.txt"), "w") as out:
            out.write("profile 1\nunit embed forward_s 1e-5 parameter_bytes 8192 cut_bytes 8320\n")
            out.write(f"unit block {block}\n" * 4)
            out.write(f"unit head {block.replace('50000', '260000')}\noverhead disk_byte_s 1e-12\n")
        for memory, offload, key in (("1e9", [False, False], None), ("1e6", [False, True], "run.offload=1"),
                                     ("5e5", [True, True], "run.offload=true")):
            with open(self.path("machines.txt"), "w") as out:
                out.write("profile 1\n" + "".join(f"machine m{i} memory {memory} host 0\n" for i in range(2)))
            done = subprocess.run([BRIGADE, "plan", self.path("corpus.txt"), *self.JOB, "run.plan=2x1", "run.schedule=gpipe",
                                   "run.group=1", "--profile", self.path("profile.txt"), "--machines",
                                   self.path("machines.txt"), "--json", "--out", self.path("plan.txt")],
                                  capture_output=True, text=True, timeout=HANG_S)
            self.assertEqual(done.returncode, 0, done.stderr)
            answer = json.loads(done.stdout)
            self.assertEqual([stage["offload"] for stage in answer["stages"]], offload)
            self.assertEqual([word for word in answer["keys"].split() if "offload" in word], [key] if key else [])
            peaks = [machine["memory_bytes"] for stage in answer["stages"] for machine in stage["machines"]]
            self.assertLessEqual(max(peaks), float(memory))
            again = subprocess.run([BRIGADE, "plan", self.path("corpus.txt"), *self.JOB, *answer["keys"].split(), "--profile",
                                    self.path("profile.txt"), "--machines", self.path("machines.txt"), "--json"],
                                   capture_output=True, text=True, timeout=HANG_S)
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertEqual(json.loads(again.stdout)["step_s"], answer["step_s"])
            shape = ["run.plan=2x1", *(word for word in answer["keys"].split() if not word.startswith("run.plan="))]
            for name, keys in ((f"keys-{memory}", shape), (f"file-{memory}", ["run.plan=" + self.path("plan.txt"), "run.schedule=gpipe"])):
                self.end(self.start(name, *SHORT, *keys))
                self.same(name, *SHORT)
                for stage, saves in enumerate(offload):
                    self.assertEqual(bool(re.search(rf" {stage}F\d+\.o ", self.plan(name))), saves)

    def test_stages_that_save_memory(self):
        """Some stages compute forwards again, others do not: the same bits, also where one dies."""
        for schedule, shape, keys, wanted in (("1f1b", "3x1", "0,2", {0, 2}), ("zb-v", "2x1", "1", {1, 2}),
                                              ("seq1f1b", "1+2", "1", {1}), ("1f1b", "2x1", "0-1", {0, 1})):
            name = f"some-{schedule}-{shape}"
            self.end(self.start(name, *SHORT, "run.plan=" + shape, "run.schedule=" + schedule, "run.recompute=" + keys))
            self.same(name, *SHORT)
            found = re.findall(r" (\d+)F\d+(?:/\d+)?\.r ", self.plan(name))
            self.assertEqual(set(map(int, found)), wanted)
        self.kill_in("1f1b", "run.recompute=1")
        for keys, words in ((["run.plan=2x1", "run.recompute=2"], ("run.recompute", "stage 2", "0 to 1")),
                            (["run.plan=2x1", "run.offload=1-"], ("run.offload", '"1-"', "0,2-4")),
                            (["run.plan=2x1", "run.recompute=yes"], ("run.recompute", '"yes"', "true, false")),
                            (["run.plan=2x1", "run.recompute=0", "run.offload=1"], ("expected one of them",)),
                            (["run.recompute=0"], ("run.recompute", "run.plan=auto"))):
            err = self.end(self.start("refused", *SHORT, *keys), 78)
            for word in words:
                self.assertIn(word, err)

    @unittest.skipUnless(is_release(), "a sanitizer's own memory is not in the plan")
    def test_memory_is_what_was_predicted(self):
        """A plan's peak memory against the pages of its workers, once some steps have touched them all."""
        model = ["model.layers=3", "model.dim=128", "model.heads=4", "model.kv_heads=2", "model.context=256",
                 "train.micro_batch=8", "train.micro_batches=4", "run.threads=1", "run.shadow=false",
                 "train.eval_every=0", "train.checkpoint_every=0", "train.steps=100000", "run.group=1"]
        for schedule in ("1f1b", "zb-h1", "seq1f1b:2"):
            with self.subTest(schedule=schedule):
                self.check_memory("memory-" + schedule, *model, "run.plan=2x1", "run.schedule=" + schedule)

    def check_memory(self, name, *keys):
        plan = self.path(name + ".txt")
        done = subprocess.run([BRIGADE, "plan", self.path("corpus.txt"), *keys, "--machines", "2", "--out", plan, "--json"],
                              capture_output=True, text=True, timeout=HANG_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        predicted = {f"worker{machine['worker']}": machine["memory_bytes"]
                     for stage in json.loads(done.stdout)["stages"] for machine in stage["machines"]}
        process = subprocess.Popen([BRIGADE, "train", self.path("corpus.txt"), "run.dir=" + self.path(name), *keys,
                                    "run.plan=" + plan, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            self.wait_steps(name, 4, process)
            for event in self.events(name):
                if event["event"] == "spawned":
                    with open(f"/proc/{event['process']}/smaps_rollup") as pages:
                        held = int(re.search(r"Pss: +(\d+) kB", pages.read())[1]) * 1024
                    self.assertTrue(0.75 < predicted[event["name"]] / held < 1.33, (predicted, event["name"], held))
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=HANG_S)

    def test_kill_while_stashes_are_on_disk(self):
        scratch = self.path("scratch")
        os.mkdir(scratch)
        self.kill_in("gpipe", "run.offload=true", "run.scratch=" + scratch, mapped=scratch)
        self.assertIn(".o ", self.plan("kill-gpipe"))
        self.assertEqual(os.listdir(scratch), [])

    def kill_in(self, schedule, *more, mapped=None):
        name, steps = "kill-" + schedule, "train.steps=200"
        process = self.start(name, steps, "run.schedule=" + schedule, "run.shadow=true", "run.plan=1+2", *more)
        for count, who in ((20, "worker2"), (80, "worker0")):
            self.wait_steps(name, count, process)
            victim = self.pid(name, who)
            if mapped:
                with open(f"/proc/{victim}/maps") as maps:
                    self.assertIn(mapped + "/", maps.read())
            os.kill(victim, signal.SIGKILL)
        self.end(process)
        found = self.same(name, steps)
        self.assertEqual(found["deaths"], 2)
        self.assertLessEqual(found["steps_redone"], 2)

    def test_too_many_slices(self):
        err = self.end(self.start("refused", *SHORT, "run.plan=2x1", "run.schedule=seq1f1b:4"), 78)
        for word in ("run.schedule", "130 positions", "at most 3 slices"):
            self.assertIn(word, err)
        self.assertFalse(os.path.exists(self.path("refused")))


if __name__ == "__main__":
    sys.exit(unittest.main())
