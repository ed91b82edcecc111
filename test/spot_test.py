#!/usr/bin/python3
"""`brigade sim deadline` as a user meets it: totals, JSON, and what errors name. Makes its own traces; the published
means need ../shared (or BRIGADE_SHARED)."""
import glob
import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SHARED = os.environ.get("BRIGADE_SHARED", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared"))
JOB = ["--work", "4h", "--deadline", "7h", "--overhead", "60m", "--spot-price", "1", "--on-demand-price", "3"]


def sim(*args, cpus=None):
    done = subprocess.run([BRIGADE, "sim", *args], capture_output=True, timeout=120,
                          preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def is_release():
    """Whether the command was built to be fast: only then are times worth a word."""
    try:
        with open(os.path.join(os.environ["BRIGADE_BUILD"], "CMakeCache.txt")) as cache:
            return "CMAKE_BUILD_TYPE:STRING=Release\n" in cache.read()
    except (KeyError, OSError):
        return False


def seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
        self.fails(65, ["brigade: the window from tick 0", "short.json"], "--trace", self.trace("short.json", [1] * 5), *JOB)
        self.fails(65, ["good.json", "20 ticks", "21"], "--trace", good, "--ticks", "21", *JOB)
        for text, line in (("1\nx\n", 2), ("1\n\n2\n", 2), ("-1\n", 1), ("99999999999999999999\n", 1), ("0\n13\n", 2)):
            self.fails(65, [f"starts.txt:{line}:"], "--trace", good, "--starts", self.file("starts.txt", text), *JOB)
        self.fails(65, ["starts.txt"], "--trace", good, "--starts", self.file("starts.txt", ""), *JOB)
        self.fails(78, ["good.json", "even on demand"], "--trace", good, *JOB, "--deadline", "4h")
        self.fails(78, ["good.json", "work"], "--trace", good, *JOB, "--work", "0h")
        self.fails(78, ["good.json", "work", "at most 1e12"], "--trace", good, *JOB, "--work", "1e99h")
        for option, value in (("work", "4x"), ("deadline", "h"), ("overhead", "nan"), ("spot-price", "much")):
            self.fails(64, ["--" + option, value], "--trace", good, *JOB, "--" + option, value)
        self.fails(64, ["greedy"], "--trace", good, *JOB, "--policy", "gredy")
        self.fails(64, ["--trace"], *JOB)
        self.fails(64, ["--work"], "--trace", good)

    def test_gang(self):
        trace = self.trace("gang.json", [3, 4, 9, 3, 4, 4, 4, 4])
        code, out, err = sim("deadline", "--trace", trace, "--policy=spot", "--instances=4", "--json", *JOB)
        self.assertEqual(code, 0, err)
        self.assertEqual(json.loads(out)["mean_cost"], 4 * 5)
        self.fails(78, ["gang.json", "0 instances"], "--trace", trace, *JOB, "--instances=0")

    def test_estimates(self):
        trace = self.trace("long.json", ([1] * 5 + [0] * 3) * 60)
        job = [*JOB, "--deadline", "12h", "--work-most", "6h", "--overhead-most", "90m", "--windows", "200"]
        late = {}
        for policy in ("patient", "relaxed"):
            code, out, err = sim("deadline", "--trace", trace, "--policy", policy, "--json", *job)
            self.assertEqual(code, 0, err)
            late[policy] = json.loads(out)["missed"]
            windows = json.loads(out)["traces"][0]["windows"]
            self.assertGreater(len({w["cost"] for w in windows}), 2)
            one = sim("deadline", "--trace", trace, "--policy", policy, "--window=17", "--json", *job)[1]
            self.assertEqual(json.loads(one)["traces"][0]["windows"], windows[17:18])
        self.assertEqual(late["relaxed"], 0)
        self.fails(64, ["exact"], "--trace", trace, "--policy=omniscient", *job)
        self.fails(64, ["--work-most"], "--trace", trace, *JOB, "--work-most", "3h")
        self.fails(78, ["even on demand"], "--trace", trace, *JOB, "--work-most", "6.5h")

    def test_traces_of_events(self):
        events = self.file("events.csv", "0,add,a\n7200000,remove,a\n10800000,add,b\n40000000,remove,b\n")
        code, out, err = sim("deadline", "--trace", events, "--gap=1h", "--policy=spot", "--json", *JOB)
        self.assertEqual(code, 0, err)
        counts = self.trace("same.json", [1, 1, 0] + [1] * 9)
        same = json.loads(sim("deadline", "--trace", counts, "--policy=spot", "--json", *JOB)[1])
        self.assertEqual(json.loads(out)["traces"][0]["windows"], same["traces"][0]["windows"])
        requests = self.file("r.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01 00:00:00,1,1\n")
        self.fails(78, ["r.csv", "no machines"], "--trace", requests, *JOB)

    def test_one_window(self):
        trace, starts = self.trace("some.json", [0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]), self.file("s.txt", "0\n3\n")
        svg = os.path.join(self.dir, "window.svg")
        code, out, err = sim("deadline", "--trace", trace, "--starts", starts, "--window=1", "--svg", svg, "--json", *JOB)
        self.assertEqual(code, 0, err)
        self.assertEqual([w["start"] for w in json.loads(out)["traces"][0]["windows"]], [3])
        with open(svg) as picture:
            text = picture.read()
        for word in ("spot there", "held", "hours of work done", "from tick 3 of some.json", "</svg>"):
            self.assertIn(word, text)
        if shutil.which("rsvg-convert"):
            subprocess.run(["rsvg-convert", "-o", svg + ".png", svg], check=True)
        self.fails(64, ["--window"], "--trace", trace, "--svg", svg, *JOB)
        self.fails(64, ["0 to 1"], "--trace", trace, "--starts", starts, "--window=2", *JOB)
        self.fails(64, ["one trace"], "--trace", trace, trace, "--window=0", *JOB)

    def test_replay(self):
        trace, log = self.trace("some.json", [0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]), os.path.join(self.dir, "decisions")
        for policy in ("greedy", "patient", "next-spot", "relaxed"):
            code, out, err = sim("deadline", "--trace", trace, "--policy", policy, "--window=0", "--log", log, *JOB)
            self.assertEqual(code, 0, err)
            with open(log) as file:
                lines = file.read().splitlines()
            code, out, err = sim("replay", log, "--json")
            self.assertEqual((code, err), (0, ""))
            self.assertEqual(json.loads(out), {"decisions": len(lines), "same": True})
            code, out, err = sim("replay", self.file("torn", "\n".join(lines)))
            self.assertEqual((code, out), (65, ""))
            self.assertIn(f"torn:{len(lines)}: the line has no end", err)
            minus = re.sub("price-spot 1 ", "price-spot -1 ", lines[0])
            self.assertNotEqual(minus, lines[0])
            code, out, err = sim("replay", self.file("minus", minus + "\n"))
            self.assertEqual((code, out), (65, ""))
            self.assertIn("price-spot -1", err)
            lines[2] = re.sub("decided [a-z-]+", "decided " + ("none" if "decided none" not in lines[2] else "spot"), lines[2])
            code, out, err = sim("replay", self.file("changed", "\n".join(lines)))
            self.assertEqual((code, out), (65, ""))
            self.assertIn("changed:3: tick 2: " + policy, err)
        long = self.trace("days.json", [1] * 20000)
        self.fails(64, ["--log", "10000"], "--trace", long, *JOB, "--deadline", "10000h", "--window=0", "--log", log)
        for text in ("", "hello\n", lines[0] + "\n\n"):
            self.assertEqual(sim("replay", self.file("bad", text))[0], 65)
        self.assertEqual(sim("replay", os.path.join(self.dir, "none"))[0], 66)

    def test_compare(self):
        traces = [self.trace(f"t{i}.json", [int((t * (i + 3)) % 11 < 6) for t in range(400)]) for i in range(3)]
        job = ["--work", "20h", "--overhead", "30m", "--spot-price", "1", "--on-demand-price", "3", "--windows", "90"]
        svg = os.path.join(self.dir, "slack.svg")
        run = lambda **more: sim("compare", "--trace", *traces, "--policy", "all", "--slack", "1.2,1.5", "--svg", svg,
                                 "--json", *job, **more)
        code, out, err = run()
        self.assertEqual(code, 0, err)
        self.assertEqual(err, "")  # no terminal, no bar
        self.assertEqual(run(cpus={min(os.sched_getaffinity(0))})[1], out)  # one core, the same
        result = json.loads(out)
        self.assertEqual([s["slack"] for s in result["slacks"]], [1.2, 1.5])
        for slack in result["slacks"]:
            best = slack["policies"][-1]
            self.assertEqual(best["policy"], "omniscient")
            for policy in slack["policies"]:
                self.assertEqual(policy["missed"] == 0, policy["policy"] != "spot")
                self.assertAlmostEqual(sum(policy["trace_costs"]) / 3, policy["mean_cost"])
                if policy["policy"] != "spot":
                    self.assertGreaterEqual(policy["mean_cost"], best["mean_cost"] - 1e-9)
        code, alone, err = sim("deadline", "--trace", *traces, "--policy=greedy", "--deadline=30h", "--json", *job)
        greedy = [p for p in result["slacks"][1]["policies"] if p["policy"] == "greedy"][0]
        self.assertAlmostEqual(json.loads(alone)["mean_cost"], greedy["mean_cost"])
        with open(svg) as picture:
            text = picture.read()
        self.assertEqual(text.count("<polyline"), len(result["slacks"][0]["policies"]))
        self.assertIn("omniscient</text>", text)
        dashed = max(0, len(result["slacks"][0]["policies"]) - 8)  # colours that come again: dashed, also in the legend
        self.assertEqual(text.count('stroke-dasharray="6 4"'), 2 * dashed)
        other = sim("compare", "--trace", *traces, "--slack=1.5", "--json", "--seed=2", *job)[1]
        self.assertNotEqual(json.loads(other)["slacks"][0]["policies"][0]["mean_cost"], greedy["mean_cost"])

        def fails(words, *args):
            code, out, err = sim("compare", "--trace", *traces, *job, *args)
            self.assertEqual((code, out), (64, ""), err)
            for word in words:
                self.assertIn(word, err)
        fails(["--deadline or --slack"])
        fails(["--deadline or --slack"], "--slack=1.5", "--deadline=30h")
        fails(["--slack"], "--slack=1.5,x")
        fails(["patient"], "--slack=1.5", "--policy=greedy,patent")
        fails(["two or more"], "--slack=1.5", "--svg", svg)

    def test_published(self):
        starts = os.path.join(SHARED, "goldens", "cant_be_late_starts_60h.txt")
        traces = sorted(glob.glob(os.path.join(SHARED, "data", "traces", "spot", "aws-10-26-2022-*.json")))
        if len(traces) != 8 or not os.path.exists(starts):
            self.skipTest("needs ../shared (BRIGADE_SHARED)")
        job = ["--trace", *traces, "--work", "48h", "--deadline", "60h", "--overhead", "0.2h", "--starts", starts,
               "--ticks", "1784", "--spot-price", "0.9731", "--on-demand-price", "3.06", "--json"]
        means = {"on-demand": "147.900000", "greedy": "113.308842", "uniform-progress": "104.532835",
                 "uniform-progress-plain": "104.779867"}
        before = seconds_of_children()
        code, out, err = sim("compare", "--policy", ",".join(means), *job)
        used = seconds_of_children() - before
        self.assertEqual(code, 0, err)
        policies = json.loads(out)["slacks"][0]["policies"]
        self.assertEqual({p["policy"]: f"{p['mean_cost']:.6f}" for p in policies}, means)
        if is_release():
            self.assertLess(used, 0.5)  # of the second that is allowed
        for policy, mean in (("patient", "102.479108"), ("next-spot", "97.877725")):
            code, out, err = sim("deadline", "--policy", policy, *job)
            self.assertEqual(code, 0, err)
            self.assertEqual(f"{json.loads(out)['mean_cost']:.6f}", mean)
        if os.environ.get("BRIGADE_CHECK_FULL"):
            before = seconds_of_children()
            code, out, err = sim("deadline", "--policy", "omniscient", *job)
            self.assertEqual(f"{json.loads(out)['mean_cost']:.6f}", "93.647281")
            if is_release():
                self.assertLess(seconds_of_children() - before, 10)  # on one core

    def test_adding_a_policy_touches_little(self):
        """Each policy is a file and a line of the registry: the source says so, for all of them."""
        plan = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "plan")
        with open(os.path.join(plan, "spot", "policy_int.h")) as header:
            names = re.findall(r"^    X\((\w+)\)", header.read(), re.M)
        self.assertIn("next_spot", names)
        for name in names:
            uses = []
            for path in glob.glob(os.path.join(plan, "*", "*.[ch]")):
                with open(path) as source:
                    if not path.endswith("_test.c") and re.search(rf"plan_deadline_{name}\b(?!\()", source.read()):
                        uses.append(os.path.basename(path))
            own = f"deadline_{name}.c"
            self.assertIn(own, uses)
            self.assertLessEqual(set(uses) - {own}, {"deadline_relaxed.c"})  # which is made of patient


if __name__ == "__main__":
    unittest.main()
