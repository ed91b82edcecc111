#!/usr/bin/env python3
"""`brigade chaos`: short runs of every kind of fault come out like an undisturbed one, and it says so truthfully.

BRIGADE_CHECK_FULL=1 adds a long run of 1,000 kills.
"""
import json
import os
import subprocess
import sys
import unittest

from scenarios import BRIGADE, Runs

SHARED = os.environ.get("BRIGADE_SHARED", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared"))
TRACE = os.path.join(SHARED, "data", "traces", "spot", "ec2-p3.csv")


class Chaos(Runs):
    JOB = ["model.layers=2", "model.dim=16", "model.heads=2", "model.context=16", "train.micro_batch=1",
           "train.micro_batches=4", "train.warmup=2", "train.lr=1e-2", "train.eval_every=0", "train.eval_tokens=200",
           "run.threads=1"]

    def undisturbed(self, steps):
        name = f"single-{steps}"
        if not os.path.exists(self.path(name)):
            self.end(self.start(name, f"train.steps={steps}"))
        return self.path(name)

    def chaos(self, name, steps, keys, options, code=0, timeout=300):
        done = subprocess.run(
            [BRIGADE, "chaos", self.path("corpus.txt"), "run.dir=" + self.path(name), *self.JOB, f"train.steps={steps}", *keys,
             "--reference", self.undisturbed(steps), "--json", *options], capture_output=True, text=True, timeout=timeout)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        found = json.loads(done.stdout)
        if code == 0:
            self.assertTrue(found["survived"] and found["curve_identical"] and found["weights_identical"])
        return found

    def test_kills(self):
        found = self.chaos("kills", 1500, ["run.plan=2x2", "run.shadow=true"], ["--seed", "5", "--kills", "12", "--every", "60"])
        self.assertEqual(found["faults"], {"kill": 12, "stop": 0, "term": 0})
        self.assertGreaterEqual(found["deaths"], 8) # on a busy machine a second kill may meet a process that has just died
        self.assertGreater(found["recovery_ms"]["count"], 0)
        self.assertLess(found["recovery_ms"]["p50"], 1000)

    def test_every_signal_and_the_controller(self):
        found = self.chaos("signals", 1500, ["run.plan=2x1", "run.heartbeat_ms=200"],
                           ["--seed", "3", "--kills", "10", "--every", "60", "--signals", "KILL,STOP,TERM", "--targets",
                            "workers,controller"])
        self.assertEqual(sum(found["faults"].values()), 10)
        self.assertGreater(found["faults"]["stop"], 0)

    def test_script(self):
        script = self.path("script.txt")
        with open(script, "w") as out:
            out.write("# what happens when\nstep 100 kill worker1\nstep 200 kill shadow\nstep 300 stop worker0 500\n"
                      "step 700 kill controller\npoint worker0:after-vote:20:KILL\n")
        found = self.chaos("script", 1500, ["run.plan=2x1", "run.heartbeat_ms=200"], ["--faults", script])
        self.assertEqual(found["faults"]["kill"], 3)
        self.assertEqual(found["controller_restarts"], 1)

    def test_frames(self):
        found = self.chaos("frames", 400, ["run.plan=2x2", "run.patience_ms=100"],
                           ["--kills", "0", "--frames", "5:drop:2e-4,corrupt:2e-4,delay:1e-3:5ms"])
        self.assertGreater(found["generations"], 1)

    def test_a_flipped_bit_is_named(self):
        self.chaos("flip", 400, ["run.plan=2x2", "run.patience_ms=100"], ["--kills", "0", "--frames", "5:corrupt:1e-3"])
        with open(self.path("flip/events.jsonl")) as lines:
            told = [e["text"] for e in map(json.loads, lines) if e["event"] == "trouble" and "damaged" in e["text"]]
        self.assertTrue(told)
        for text in told: # which value, of which step, from whom
            self.assertRegex(text, r"(ACTIVATION|GRADIENT|PART|ROOT|STATE) .* step \d+.* member \d+")

    def test_trace(self):
        trace = self.path("trace.csv")
        with open(trace, "w") as out:
            out.write("".join(f"0,add,n{i}\n" for i in range(5)) + "".join(
                f"{1000 * i},remove,n{i % 5}\n{1000 * i + 300},add,n{i % 5}\n" for i in range(1, 9)))
        found = self.chaos("trace", 3000, ["run.plan=1x3"], ["--trace", trace, "--time-scale", "10"])
        self.assertEqual(found["trace"]["kills"], 8)
        self.assertGreater(found["goodput"], 0)

    def test_real_trace(self):
        if not os.path.isfile(TRACE):
            self.skipTest(f"{TRACE} is not here")
        if not os.environ.get("BRIGADE_CHECK_FULL"):
            self.skipTest("BRIGADE_CHECK_FULL=1 replays it")
        found = self.chaos("real", 40000, ["run.plan=1x4"], ["--trace", TRACE, "--time-scale", "2000"], timeout=600)
        self.assertEqual(found["trace"]["events"], 344)
        self.assertEqual(found["trace"]["kills"], 167)

    def test_thousand_kills(self):
        if not os.environ.get("BRIGADE_CHECK_FULL"):
            self.skipTest("BRIGADE_CHECK_FULL=1 does it")
        found = self.chaos("thousand", 60000, ["run.plan=2x2", "run.shadow=true"],
                           ["--seed", "11", "--kills", "1000", "--every", "20"], timeout=1200)
        self.assertEqual(found["faults"]["kill"], 1000)
        self.assertLess(found["recovery_ms"]["p50"], 100)
        self.assertLess(found["recovery_ms"]["p99"], 1000)

    def test_another_curve_is_told(self):
        other = self.path("other")
        subprocess.run([BRIGADE, "train", self.path("corpus.txt"), f"run.dir={other}", *self.JOB, "train.steps=50", "--quiet",
                        "train.seed=2"], check=True, stdout=subprocess.DEVNULL, timeout=300)
        found = self.chaos("told", 50, ["run.plan=1x2"], ["--kills", "0", "--reference", other], code=1)
        self.assertTrue(found["survived"])
        self.assertFalse(found["curve_identical"] or found["weights_identical"])

    def test_misuse(self):
        bad = ["", "drop:1e-3", "7:", "7:drop", "7:drop:2", "7:lose:0.1", "7:delay:1", "7:delay:1:5", "7:drop:0.1,,",
               "7:drop:0.1:5ms", "x:drop:0.1", "7:drop:-1", "7:drop:0.1x", "7:delay:0.1:-5ms", "7,drop:0.1"]
        cases = [(["--frames", text], "expected SEED:") for text in bad] + [
            (["--signals", "HUP"], "HUP"), (["--faults", self.path("corpus.txt")], "corpus.txt:1"),
            (["--trace", self.path("corpus.txt")], "corpus.txt:1"), (["--time-scale", "0"], "time-scale")]
        for args, words in cases:
            done = subprocess.run([BRIGADE, "chaos", self.path("corpus.txt"), "run.dir=" + self.path("misuse"), *self.JOB,
                                   "run.plan=1x2", *args], capture_output=True, text=True, timeout=60)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)
            self.assertFalse(os.path.exists(self.path("misuse")))


if __name__ == "__main__":
    sys.exit(unittest.main())
