#!/usr/bin/python3
"""`brigade sim deadline` as a user meets it: totals, JSON, and what errors name. Makes its own traces; the published
means need ../shared (or BRIGADE_SHARED)."""
import glob
import json
import os
import shutil
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SHARED = os.environ.get("BRIGADE_SHARED", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared"))
JOB = ["--work", "4h", "--deadline", "7h", "--overhead", "60m", "--spot-price", "1", "--on-demand-price", "3"]


def sim(*args):
    done = subprocess.run([BRIGADE, "sim", *args], capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Sim(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="brigade-spot-")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def file(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as out:
            out.write(text)
        return path

    def trace(self, name, data, gap=3600):
        return self.file(name, json.dumps({"metadata": {"gap_seconds": gap}, "data": data}))

    def fails(self, code, words, *args):
        got, out, err = sim("deadline", *args)
        self.assertEqual(got, code, err)
        self.assertEqual(out, "")
        for word in words:
            self.assertIn(word, err)

    def test_small(self):
        here, gone = self.trace("here.json", [3] * 10), self.trace("gone.json", [0] * 10)
        starts = self.file("starts", "0\n2\n")
        code, out, err = sim("deadline", "--trace", here, gone, "--policy", "greedy", "--starts", starts, "--json", *JOB)
        self.assertEqual(code, 0, err)
        result = json.loads(out)
        self.assertEqual(result["windows"], 4)
        self.assertEqual(result["missed"], 0)
        self.assertEqual(result["mean_cost"], 10)
        self.assertEqual([t["trace"] for t in result["traces"]], [here, gone])
        self.assertEqual([t["mean_cost"] for t in result["traces"]], [5, 15])
        self.assertEqual(result["traces"][0]["windows"][1],
                         {"start": 2, "cost": 5, "idle_ticks": 1, "ondemand_ticks": 0, "spot_ticks": 5, "switch_to_spot": 1,
                          "switch_to_ondemand": 0, "finish_s": 18000, "met": True})
        code, out, _ = sim("deadline", "--trace", gone, "--policy=spot", *JOB)
        self.assertEqual(code, 0)
        self.assertIn("0.000000     1        all, spot, 1 windows", out)

    def test_every_policy(self):
        trace = self.trace("some.json", [0, 0, 1, 1, 0, 1, 1, 1])
        costs = {}
        for policy in "on-demand greedy uniform-progress uniform-progress-plain time-sliced patient omniscient".split():
            code, out, err = sim("deadline", "--trace", trace, "--policy", policy, "--json", *JOB)
            self.assertEqual(code, 0, err)
            self.assertEqual(json.loads(out)["missed"], 0)
            costs[policy] = json.loads(out)["mean_cost"]
        self.assertEqual(min(costs.values()), costs["omniscient"])

    def test_bad_input(self):
        good = self.trace("good.json", [1] * 20)
        self.fails(66, ["none.json", "no such file"], "--trace", os.path.join(self.dir, "none.json"), *JOB)
        self.fails(65, ["bad.json:1:", "not valid JSON"], "--trace", self.file("bad.json", '{"data": ['), *JOB)
        self.fails(65, ["empty.json", "no entries"], "--trace", self.file("empty.json", ""), *JOB)
        self.fails(65, ["no.json", "metadata"], "--trace", self.file("no.json", '{"data": [1]}'), *JOB)
        self.fails(65, ["none-in.json", "0 entries"], "--trace", self.trace("none-in.json", []), *JOB)
        self.fails(65, ["word.json", "data[1]"], "--trace", self.trace("word.json", [1, "1"]), *JOB)
        self.fails(65, ["minus.json", "data[0]"], "--trace", self.trace("minus.json", [-1]), *JOB)
        self.fails(65, ["gap.json", "gap_seconds"], "--trace", self.trace("gap.json", [1], 0), *JOB)
        self.fails(65, ["short.json", "window"], "--trace", self.trace("short.json", [1] * 5), *JOB)
        self.fails(65, ["good.json", "20 ticks", "21"], "--trace", good, "--ticks", "21", *JOB)
        for text, line in (("1\nx\n", 2), ("1\n\n2\n", 2), ("-1\n", 1), ("99999999999999999999\n", 1), ("0\n13\n", 2)):
            self.fails(65, [f"starts.txt:{line}:"], "--trace", good, "--starts", self.file("starts.txt", text), *JOB)
        self.fails(65, ["starts.txt"], "--trace", good, "--starts", self.file("starts.txt", ""), *JOB)
        self.fails(78, ["good.json", "even on demand"], "--trace", good, *JOB, "--deadline", "4h")
        self.fails(78, ["good.json", "work"], "--trace", good, *JOB, "--work", "0h")
        for option, value in (("work", "4x"), ("deadline", "h"), ("overhead", "nan"), ("spot-price", "much")):
            self.fails(64, ["--" + option, value], "--trace", good, *JOB, "--" + option, value)
        self.fails(64, ["greedy"], "--trace", good, *JOB, "--policy", "gredy")
        self.fails(64, ["--trace"], *JOB)
        self.fails(64, ["--work"], "--trace", good)

    def test_published(self):
        starts = os.path.join(SHARED, "goldens", "cant_be_late_starts_60h.txt")
        traces = sorted(glob.glob(os.path.join(SHARED, "data", "traces", "spot", "aws-10-26-2022-*.json")))
        if len(traces) != 8 or not os.path.exists(starts):
            self.skipTest("needs ../shared (BRIGADE_SHARED)")
        means = {"on-demand": "147.900000", "greedy": "113.308842", "uniform-progress": "104.532835",
                 "uniform-progress-plain": "104.779867", "patient": "102.211020"}
        if os.environ.get("BRIGADE_CHECK_FULL"):
            means["omniscient"] = "93.647281"
        for policy, mean in means.items():
            code, out, err = sim("deadline", "--trace", *traces, "--policy", policy, "--work", "48h", "--deadline", "60h",
                                 "--overhead", "0.2h", "--starts", starts, "--ticks", "1784", "--spot-price", "0.9731",
                                 "--on-demand-price", "3.06", "--json")
            self.assertEqual(code, 0, err)
            self.assertEqual(f"{json.loads(out)['mean_cost']:.6f}", mean)


if __name__ == "__main__":
    unittest.main()
