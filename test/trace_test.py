#!/usr/bin/python3
"""`brigade trace` as a user meets it: what is said of traces, what is mended, changed, written and drawn, and what errors
name. Figures are computed here a second time. Makes its own traces; the recorded ones need ../shared (or BRIGADE_SHARED)."""
import csv
import datetime
import glob
import json
import math
import os
import random
import shutil
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SHARED = os.environ.get("BRIGADE_SHARED", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared"))
HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def trace(*args):
    done = subprocess.run([BRIGADE, "trace", *args], capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def percentile(values, part):
    return sorted(values)[max(math.ceil(part * len(values)), 1) - 1]


def runs(up):
    """Lengths of the runs of True and of False."""
    lengths = {True: [], False: []}
    for i, value in enumerate(up):
        if i and up[i - 1] == value:
            lengths[value][-1] += 1
        else:
            lengths[value].append(1)
    return lengths[True], lengths[False]


class Trace(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="brigade-trace-")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def file(self, name, text):
        with open(self.path(name), "w") as out:
            out.write(text)
        return self.path(name)

    def counts(self, name, data, gap=600):
        return self.file(name, json.dumps({"metadata": {"gap_seconds": gap}, "data": data}))

    def tell(self, *args):
        code, out, err = trace(*args, "--json")
        self.assertEqual(code, 0, err)
        return json.loads(out)["traces"], err

    def read(self, path):
        with open(path) as file:
            return file.read()

    def check_counts(self, told, data, gap, least):
        up, down = runs([count >= least for count in data])
        self.assertEqual((told["kind"], told["entries"], told["gap_s"]), ("counts", len(data), gap))
        self.assertAlmostEqual(told["availability"], sum(up) / len(data))
        self.assertEqual((told["up_runs"], told["down_runs"]), (len(up), len(down)))
        self.assertAlmostEqual(told["up_mean_s"], gap * sum(up) / len(up) if up else 0)
        self.assertAlmostEqual(told["down_mean_s"], gap * sum(down) / len(down) if down else 0)
        self.assertAlmostEqual(told["live_mean"], sum(data) / len(data))
        self.assertEqual((told["live_min"], told["live_max"]), (min(data), max(data)))

    def test_counts(self):
        draw = random.Random(1)
        for most in (1, 4, 16):
            data = [draw.randint(0, most) for _ in range(500)]
            path = self.counts("counts.json", data, 300)
            for least in (1, most):
                self.check_counts(self.tell(path, "--instances", str(least))[0][0], data, 300, least)
        code, out, _ = trace(path)
        self.assertEqual(code, 0)
        self.assertIn("live min/mean/max", out)
        self.assertIn("counts.json", out)

    def test_requests(self):
        draw = random.Random(2)
        at, rows = datetime.datetime(2023, 12, 31, 23, 59, 0), []
        for _ in range(2000):
            at += datetime.timedelta(microseconds=int(draw.expovariate(3) * 1e6))
            rows.append((at, draw.randint(1, 9000), draw.randint(1, 900)))
        path = self.file("requests.csv", HEAD + "".join(f"{a:%Y-%m-%d %H:%M:%S.%f},{p},{g}\n" for a, p, g in rows))
        told = self.tell(path)[0][0]
        gaps = [(b[0] - a[0]).total_seconds() for a, b in zip(rows, rows[1:])]
        mean = sum(gaps) / len(gaps)
        self.assertAlmostEqual(told["rate"], 1 / mean)
        self.assertAlmostEqual(told["cv"], math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps)) / mean)
        for key, values in (("prompt_tokens", [r[1] for r in rows]), ("generated_tokens", [r[2] for r in rows])):
            self.assertAlmostEqual(told[key]["mean"], sum(values) / len(values))
            for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1)):
                self.assertEqual(told[key][name], percentile(values, part))
        out = self.path("more.csv")
        more = self.tell(path, "--upscale", "4", "--out", out)[0][0]
        self.assertEqual(more["entries"], 1999 * 4 + 1)
        self.assertAlmostEqual(more["rate"] / told["rate"], 4, places=5)
        self.assertAlmostEqual(more["cv"], told["cv"], places=5)
        self.assertEqual(self.tell(out)[0][0]["prompt_tokens"], more["prompt_tokens"])
        slow = self.tell(path, "--time-scale", "10")[0][0]
        self.assertAlmostEqual(slow["rate"] * 10, told["rate"], places=6)

    def test_mended(self):
        events = self.file("events.csv", "5000,add,a\n2000,add,b\n7000,add,a\n9000,remove,b\n")
        told, err = self.tell(events)
        self.assertEqual((told[0]["out_of_order"], told[0]["dropped"], told[0]["entries"]), (1, 1, 3))
        self.assertIn("events.csv:2: 1 entries out of order", err)
        self.assertIn("events.csv:3: 1 events dropped", err)
        out = self.path("mended.csv")
        self.tell(events, "--out", out)
        self.assertEqual(self.read(out), "2000,add,b\n5000,add,a\n9000,remove,b\n")
        told, err = self.tell(out)
        self.assertEqual((told[0]["out_of_order"], err), (0, ""))

    def test_forms(self):
        counts = self.counts("forms.json", [0, 2, 1, 1, 0, 3, 3, 1])
        events, back = self.path("forms.csv"), self.path("back.json")
        self.tell(counts, "--out", events)
        self.assertEqual(self.read(events).split("\n")[0], "600000,add,node1")
        self.tell(events, "--gap", "10m", "--out", back)
        self.assertEqual(json.loads(self.read(back)), json.loads(self.read(counts)))
        self.tell(counts, "--time-scale", "0.1", "--out", back)
        self.assertEqual(json.loads(self.read(back))["metadata"]["gap_seconds"], 60)

    def test_thinned(self):
        events = self.file("many.csv", "".join(f"{i},add,n{i}\n" for i in range(1000)))
        first, second, other = (self.path(f"thin{i}.csv") for i in range(3))
        self.tell(events, "--thin", "0.25", "--out", first)
        self.tell(events, "--thin", "0.25", "--out", second)
        self.tell(events, "--thin", "0.25", "--seed", "7", "--out", other)
        self.assertEqual(self.read(first), self.read(second))
        self.assertNotEqual(self.read(first), self.read(other))
        self.assertLess(abs(self.read(first).count("\n") - 250), 70)

    def test_picture(self):
        svg = self.path("all.svg")
        paths = [self.counts("zone<a>.json", [1, 0, 1]), self.counts("b.json", [4, 2, 0]),
                 self.file("e.csv", "0,add,x\n1000,add,y\n9000,remove,x\n"),
                 self.file("r.csv", HEAD + "2023-01-01 00:00:00,1,1\n2023-01-01 00:00:09,1,1\n")]
        self.tell(*paths, "--svg", svg)
        text = self.read(svg)
        for word in ("zone&lt;a&gt;", "b</text>", "e.csv", ">x</text>", ">y</text>", "r.csv", "requests", "machines there"):
            self.assertIn(word, text)
        self.assertNotIn("nan", text)
        if shutil.which("rsvg-convert"):
            subprocess.run(["rsvg-convert", "-o", svg + ".png", svg], check=True)
        self.tell(self.file("one.csv", HEAD + "2023-01-01 00:00:00,1,1\n"), "--svg", svg)
        self.assertNotIn("nan", self.read(svg))

    def test_errors(self):
        def fails(code, words, *args):
            got, out, err = trace(*args)
            self.assertEqual((got, out), (code, ""), err)
            for word in words:
                self.assertIn(word, err)
        good = self.counts("good.json", [1, 0])
        requests = self.file("req.csv", HEAD + "2023-01-01 00:00:00,1,1\n")
        fails(64, ["expected: brigade trace"])
        fails(66, ["none.json", "no such file"], self.path("none.json"))
        fails(65, ["bad.csv:2", "ms,add|remove,node"], self.file("bad.csv", "0,add,a\n1,add\n"))
        fails(65, ["bad.json:1"], self.file("bad.json", "{"))
        fails(64, ["--thin"], good, "--thin", "1.5")
        fails(64, ["--thin"], good, "--thin", "0")
        fails(64, ["--upscale", "at least 1"], requests, "--upscale", "0.5")
        fails(78, ["good.json", "only requests"], good, "--upscale", "2")
        fails(64, [".json", ".csv"], good, "--out", self.path("x.txt"))
        fails(64, ["one trace"], good, good, "--out", self.path("x.json"))
        fails(78, ["req.csv", "no machines"], requests, "--out", self.path("x.json"))
        fails(78, ["nothing is left"], requests, "--thin", "1e-9")
        fails(64, ["--gap"], good, "--gap", "soon")
        fails(64, ["--instances"], good, "--instances", "0")
        self.assertNotEqual(trace(good, "--svg", self.path("no/such/dir.svg"))[0], 0)

    def test_recorded(self):
        spot = sorted(glob.glob(os.path.join(SHARED, "data", "traces", "spot", "*.json")))
        events = os.path.join(SHARED, "data", "traces", "spot", "ec2-p3.csv")
        if len(spot) != 8 or not os.path.exists(events):
            self.skipTest("needs ../shared (BRIGADE_SHARED)")
        told, err = self.tell(*spot, events)
        self.assertEqual(err, "")
        for path, one in zip(spot, told):
            self.check_counts(one, json.loads(self.read(path))["data"], 600, 1)
        live, before, area = 0, 0, 0
        with open(events) as file:
            for ms, what, _ in csv.reader(file):
                area += live * (int(ms) - before)
                before, live = int(ms), live + (1 if what == "add" else -1)
        self.assertAlmostEqual(told[8]["live_mean"], area / before)


if __name__ == "__main__":
    unittest.main()
