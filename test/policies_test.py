#!/usr/bin/python3
"""`brigade sim fleet`, `sim service` and `sim workflow` as a user meets them. Makes its own traces; the figures of
docs/policies.md need ../shared (or BRIGADE_SHARED)."""
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SHARED = os.environ.get("BRIGADE_SHARED", os.path.join(ROOT, "..", "shared"))
TRACES = os.path.join(SHARED, "data", "traces")
FLEET = "throughput-optimal parcae parcae-steady parcae-ideal varuna bamboo oobleck".split()
SERVICE = "spothedge spot-only even-spread on-demand".split()


def sim(*args):
    done = subprocess.run([BRIGADE, "sim", *args], capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Policies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="brigade-policies-")
        with open(os.path.join(ROOT, "docs", "policies.md")) as doc:
            cls.doc = doc.read()

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def test_experts(self):
        code, out, err = sim("experts", "--load", "10,10,10", "--nodes", "3", "--json")
        self.assertEqual(code, 0, err)
        result = json.loads(out)
        self.assertEqual(result["replicas"], [2, 2, 2])
        self.assertEqual([sum(node) for node in result["nodes"]], [2, 2, 2])
        self.assertEqual(result["recovery"], [1, 0])  # plain overlap would lose a third of the single losses
        self.assertIn("odds to go on", sim("experts", "--load", "900,300,50,0", "--nodes", "4", "--slots=3")[1])
        for code, words, args in ((78, "do not hold 5", ["--load", "1,2,3,4,5", "--nodes", "2"]),
                                  (64, "'x'", ["--load", "1,x", "--nodes", "2"]), (64, "--nodes", ["--load", "1"]),
                                  (64, "--load", ["--load", "", "--nodes", "2"])):
            got, out, err = sim("experts", *args)
            self.assertEqual((got, out), (code, ""), err)
            self.assertIn(words, err)

    def file(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as out:
            out.write(text)
        return path

    def counts(self, name, data, gap=600):
        return self.file(name, json.dumps({"metadata": {"gap_seconds": gap}, "data": data}))

    def requests(self, name="requests.csv", count=600):
        lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
        lines += [f"2023-11-16 18:{i // 60:02}:{i % 60:02}.{i % 7}000000,{100 + i * 37 % 900},{1 + i * 13 % 90}" for i in range(count)]
        return self.file(name, "\n".join(lines) + "\n")

    def result(self, *args):
        code, out, err = sim(*args, "--json")
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def picture(self, name, *words):
        """Well-formed, draws, and says these words."""
        path = os.path.join(self.dir, name)
        text = " ".join(e.text for e in xml.etree.ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text"))
        for word in words:
            self.assertIn(word, text)
        if shutil.which("rsvg-convert"):
            subprocess.run(["rsvg-convert", "-o", path + ".png", path], check=True)

    def fails(self, code, words, *args):
        got, out, err = sim(*args)
        self.assertEqual(got, code, err)
        self.assertEqual(out, "")
        for word in words:
            self.assertIn(word, err)

    # ---- logs ----

    def replays(self, path, decisions):
        """All the same; and what is changed is told, with its line."""
        self.assertEqual(self.result("replay", path), {"decisions": decisions, "same": True})
        with open(path) as log:
            lines = log.read().splitlines()
        self.assertEqual(len(lines), decisions)
        changed = re.sub(r"decided (launch )?(\d+)", lambda m: f"decided {m[1] or ''}{int(m[2]) + 1}", lines[-1], count=1)
        other = self.file("changed.log", "\n".join([*lines[:-1], changed]) + "\n")
        self.fails(65, [f"changed.log:{decisions}"], "replay", other)

    def test_fleet_log(self):
        trace, log = self.counts("six.json", [6, 6, 5, 3, 3, 6, 7, 2, 4] * 5), os.path.join(self.dir, "shapes.log")
        args = ["fleet", "--trace", trace, "--model", "12x768", "--stages", "2", "--interval", "300", "--log", log]
        plain = self.result(*args[:-2])
        self.assertEqual(self.result(*args), plain) # a log changes nothing
        for policy in FLEET:
            self.replays(os.path.join(self.dir, f"shapes-{policy}.log"), round(plain["seconds"] / 300))
        self.result(*args, "--policy", "parcae")
        with open(log) as one, open(os.path.join(self.dir, "shapes-parcae.log")) as same:
            self.assertEqual(one.read(), same.read())
        profile = self.file("log.txt", "profile 1\n" + "unit block forward_s 0.1 input_s 0.1 weight_s 0.1 parameter_bytes 1e8\n" * 6)
        self.fails(78, ["--log", "LAYERSxDIM"], "fleet", "--trace", trace, "--model", profile, "--log", log)
        self.fails(78, ["--log", "10000"], "fleet", "--trace", trace, "--model", "12x768", "--interval", "1", "--log", log)

    def test_service_log(self):
        args = ["service", "--requests", self.requests(), "--zones", self.counts("x.json", [1, 0, 1]),
                self.counts("y.json", [0, 1, 1]), "--hours", "1", "--log", os.path.join(self.dir, "rents.log")]
        self.assertEqual(self.result(*args), self.result(*args[:-2]))
        for policy in SERVICE:
            self.replays(os.path.join(self.dir, f"rents-{policy}.log"), 180)
        self.fails(78, ["--log", "100000"], *args[:-3], "10000", *args[-2:])

    # ---- fleet ----

    def test_fleet(self):
        events = "".join(f"{i * 1000},add,m{i}\n" for i in range(9)) + "600000,remove,m3\n900000,add,n1\n3600000,remove,m0\n"
        trace = self.file("events.csv", events)
        svg = os.path.join(self.dir, "fleet.svg")
        result = self.result("fleet", "--trace", trace, "--model", "12x768", "--stages", "2", "--nodes", "8", "--svg", svg)
        for policy in FLEET:
            self.picture(f"fleet-{policy}.svg", policy, "machines there", "at work", "samples per second")
        self.assertEqual([p["policy"] for p in result["policies"]], FLEET)
        by_name = {p["policy"]: p for p in result["policies"]}
        self.assertEqual(by_name["throughput-optimal"]["against_throughput_optimal"], 1)
        for policy in result["policies"]:
            self.assertGreater(policy["samples"], 0)
            self.assertEqual(policy["changes"], sum(policy["kinds"].values()))
        self.assertGreaterEqual(by_name["parcae-ideal"]["samples"], by_name["throughput-optimal"]["samples"] * 0.999)
        one = self.result("fleet", "--trace", trace, "--model", "12x768", "--stages", "2", "--nodes", "8", "--policy", "parcae")
        self.assertEqual(one["policies"], [by_name["parcae"]])  # alone, and again: the same
        code, out, _ = sim("fleet", "--trace", self.counts("counts.json", [4, 5, 3, 6] * 3), "--model", "12x768")
        self.assertEqual(code, 0)
        self.assertEqual(len(out.splitlines()), 1 + len(FLEET))

    def test_fleet_profile(self):
        profile = self.file("profile.txt", "profile 1\n" + "unit block forward_s 0.1 input_s 0.1 weight_s 0.1 parameter_bytes 1e8\n" * 6)
        result = self.result("fleet", "--trace", self.counts("six.json", [6] * 7, 60), "--model", profile, "--policy",
                             "oobleck", "--micro-batches", "12")
        self.assertGreater(result["policies"][0]["samples"], 0)

    def test_fleet_bad_input(self):
        good = self.counts("good.json", [8] * 20)
        self.fails(64, ["--trace"], "fleet")
        self.fails(64, ["no policy 'parce'", "parcae"], "fleet", "--trace", good, "--policy", "parce")
        self.fails(66, ["none.csv"], "fleet", "--trace", os.path.join(self.dir, "none.csv"))
        self.fails(65, ["requests.csv", "machines"], "fleet", "--trace", self.requests())
        self.fails(66, ["nosuch"], "fleet", "--trace", good, "--model", "nosuch")
        self.fails(65, ["bad.txt"], "fleet", "--trace", good, "--model", self.file("bad.txt", "profile 2\n"))
        self.fails(78, ["does not fit"], "fleet", "--trace", good, "--nodes", "2", "--model", "96x12288")
        self.fails(78, ["65 machines"], "fleet", "--trace", good, "--nodes", "65")
        for option, value in (("interval", "0"), ("bandwidth", "0"), ("samples", "-1")):
            self.fails(64, ["--" + option], "fleet", "--trace", good, f"--{option}={value}")
        self.fails(78, ["layers"], "fleet", "--trace", good, "--model", "0x768")

    # ---- service ----

    def test_service(self):
        here, gone = self.counts("here.json", [1] * 6), self.counts("gone.json", [1, 0, 0, 1, 0, 0])
        args = ["service", "--requests", self.requests(), "--zones", here, gone, "--zone-size", "4", "--hours", "1",
                "--start", "60", "--rate", "0.25", "--spot-price", "1", "--on-demand-price", "3"]
        svg = os.path.join(self.dir, "replicas.svg")
        result = self.result(*args, "--svg", svg)
        self.assertEqual([p["policy"] for p in result["policies"]], SERVICE)
        by_name = {p["policy"]: p for p in result["policies"]}
        for name, policy in by_name.items():
            self.assertEqual(policy["served"] + policy["failed"], result["count"])
            self.assertAlmostEqual(policy["cost"], policy["spot_cost"] + policy["on_demand_cost"], places=9)
            self.assertLessEqual(policy["latency_s"]["p50"], policy["latency_s"]["p99"])
            self.picture(f"replicas-{name}.svg", name, "spot", "on-demand", "target", "minutes")
        self.assertEqual(by_name["on-demand"]["spot_cost"], 0)
        self.assertEqual(by_name["spot-only"]["on_demand_cost"], 0)
        self.assertLess(by_name["spothedge"]["cost"], by_name["on-demand"]["cost"])
        self.assertGreater(by_name["spothedge"]["availability"], by_name["even-spread"]["availability"])
        self.assertEqual(self.result(*args, "--policy", "spothedge")["policies"], [by_name["spothedge"]])
        code, out, _ = sim(*args)
        self.assertEqual(code, 0)
        self.assertEqual(len(out.splitlines()), 1 + len(SERVICE))

    def test_service_of_a_model(self):
        corpus, run = os.path.join(self.dir, "corpus.txt"), os.path.join(self.dir, "run")
        with open(corpus, "w") as file:
            file.write("to be or not to be, that is the question. " * 400)
        subprocess.run([BRIGADE, "train", corpus, f"run.dir={run}", "model.layers=2", "model.dim=32", "model.heads=2",
                        "model.context=64", "train.steps=1", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        args = ["service", "--requests", self.requests(), "--zones", self.counts("zone.json", [1] * 6), "--hours", "1"]
        replica = self.result(*args, "--model", run, "--slots", "4")["replica"]
        self.assertGreater(replica["prompt_rate"], 0)
        self.assertGreaterEqual(replica["step_s"], 0)
        self.assertGreaterEqual(replica["extra_s"], 0)
        self.fails(78, ["--slots"], *args, "--model", run, "--slots", "0")

    def test_service_bad_input(self):
        requests, zone = self.requests(), self.counts("zone.json", [1] * 20)
        self.fails(64, ["--zones"], "service", "--requests", requests)
        self.fails(64, ["--requests"], "service", "--zones", zone)
        self.fails(64, ["--hours"], "service", "--requests", requests, "--zones", zone, "--hours=-1")
        self.fails(64, ["spothedge"], "service", "--requests", requests, "--zones", zone, "--policy", "spothege")
        self.fails(65, ["zone.json", "requests"], "service", "--requests", zone, "--zones", zone)
        self.fails(65, ["requests.csv", "counts"], "service", "--requests", requests, "--zones", requests)
        self.fails(64, ["2 prices", "1 zones"], "service", "--requests", requests, "--zones", zone, "--spot-price", "1",
                   "--spot-price", "2")
        self.fails(64, ["--spot-price", "much"], "service", "--requests", requests, "--zones", zone, "--spot-price", "much")
        self.fails(78, ["replica"], "service", "--requests", requests, "--zones", zone, "--rate", "0")
        self.fails(78, ["requests at a time"], "service", "--requests", requests, "--zones", zone, "--slots", "0")
        self.fails(78, ["two or more"], "service", "--requests", self.requests("one.csv", 1), "--zones", zone, "--hours", "1")

    # ---- workflow ----

    def workflow(self, change=lambda w: None):
        w = json.loads(re.search(r'```json\n(\{"rate".*?)```', self.doc, re.S).group(1))
        change(w)
        return self.file("workflow.json", json.dumps(w))

    def test_workflow(self):
        result = self.result("workflow", self.workflow())
        self.assertTrue(result["found"] and result["proven"])
        stated = float(re.search(r"here \$([0-9.]+) an hour", self.doc).group(1))
        self.assertAlmostEqual(result["dollars_hour"], stated, places=6)
        self.assertEqual([o["model"] for o in result["operators"]], ["large", "faces"])
        result = self.result("workflow", self.workflow(lambda w: w.pop("accuracy")))
        self.assertAlmostEqual(result["dollars_hour"], 4.38, places=6)
        self.assertEqual(result["operators"][0], {"operator": "find", "model": "small", "places": [
            {"machine": "box", "tier": "camera", "machines": 2, "share": 1}]})
        def faster(w):
            w.pop("accuracy")
            w["rate"] = 12
        places = self.result("workflow", self.workflow(faster))["operators"][0]["places"]
        self.assertEqual([(p["machine"], p["machines"]) for p in places], [("box", 2), ("server", 1)])
        code, out, _ = sim("workflow", self.workflow())
        self.assertEqual(code, 0)
        self.assertIn("$9.6000 an hour", out)

    def test_workflow_bad_input(self):
        def at(*keys, value=None):
            def change(w):
                for key in keys[:-1]:
                    w = w[key]
                if value is None:
                    del w[keys[-1]]
                else:
                    w[keys[-1]] = value
            return change
        self.fails(78, ["accurate enough"], "workflow", self.workflow(at("accuracy", value=0.99)))
        self.fails(66, ["none.json"], "workflow", os.path.join(self.dir, "none.json"))
        self.fails(65, ["workflow.json", "rate"], "workflow", self.workflow(at("rate")))
        self.fails(65, ["'moon'"], "workflow", self.workflow(at("links", 0, "to", value="moon")))
        self.fails(65, ["'laptop'"], "workflow", self.workflow(at("operators", 0, "models", 0, "rates", value={"laptop": 1})))
        self.fails(65, ["inputs[0]"], "workflow", self.workflow(at("operators", 0, "inputs", value=["name"])))
        self.fails(65, ["operators"], "workflow", self.workflow(at("operators", value=[])))
        self.fails(78, ["accuracy of 2"], "workflow", self.workflow(at("operators", 0, "models", 0, "accuracy", value=2)))
        self.fails(65, ["not valid JSON"], "workflow", self.file("bad.json", "{"))
        self.fails(65, ["rate"], "workflow", self.file("list.json", "[]"))

    # ---- spotserve ----

    def test_spotserve(self):
        args, table = re.search(r"brigade sim (spotserve .*)\n```\n\n```\n(.*?)```", self.doc, re.S).groups()
        code, out, err = sim(*args.split())
        self.assertEqual(code, 0, err)
        self.assertEqual("".join(line.rstrip() + "\n" for line in out.split("\n\n")[0].splitlines()), table)
        result = self.result(*args.split())
        before = {}
        for now in result["configurations"]:
            self.assertTrue(now["keeps_up"])
            self.assertAlmostEqual(now["rate"], 1000 * now["replicas"] * now["batch"] / now["latency_ms"])
            places = [(p["replica"], p["stage"], p["rank"]) for p in now["places"] if "replica" in p]
            self.assertEqual(sorted(places), [(r, s, w) for r in range(now["replicas"]) for s in range(now["stages"])
                                              for w in range(now["width"])]) # each once
            there = {p["machine"]: p for p in now["places"]}
            self.assertEqual(len(there), now["machines"])
            self.assertEqual(len(set(there) & set(before)), min(len(there), len(before))) # nobody goes without need
            if before:
                self.assertGreaterEqual(now["change"]["stays"], now["change"]["stays_in_order"] - 1e-12)
            before = there
        one = self.result("spotserve", "--machines", "4", "--rate", "0", "--batch", "1")["configurations"][0]
        self.assertEqual(f"{one['latency_ms']:,.0f}", re.search(r"take ([0-9,]+) ms for 128 tokens", self.doc).group(1))
        few = self.result("spotserve", "--machines", "3,4", "--rate", "1")["configurations"]
        self.assertEqual(few[0]["replicas"], 0) # does not fit
        self.assertNotIn("change", few[1])

    def test_spotserve_model(self):
        text = re.search(r'```json\n(\{"layers".*?)```', self.doc, re.S).group(1)
        args = ["spotserve", "--machines", "2,3", "--rate", "0.1", "--tokens", "10", "--model"]
        one = self.result(*args, self.file("model.json", text))["configurations"][0]
        self.assertEqual((one["replicas"], one["stages"], one["width"], one["batch"]), (1, 1, 2, 1))
        self.assertAlmostEqual(one["latency_ms"], 24 * 5 + 10 * 24 * 0.6 + 2 * 0.1)
        for change, code, words in (({"layers": 0}, 65, ["bad.json", "layers"]), ({"width_max": 3}, 65, ["width_max"]),
                                    ({"embed_ms": []}, 65, ["embed_ms"]), ({"prompt_ms": [[1, 2]]}, 65, ["prompt_ms", "2 rows"]),
                                    ({"token_ms": [[1, 2], [1]]}, 65, ["token_ms"]), ({"factor": 0}, 65, ["factor"]),
                                    ({"token_ms": [[1, 2], [1, -1]]}, 65, ["token_ms[1]"]), ({"padded_layers": 3}, 65, ["padded"])):
            self.fails(code, words, *args, self.file("bad.json", json.dumps(dict(json.loads(text), **change))))
        self.fails(66, ["none.json"], *args, "none.json")
        self.fails(78, ["--batch", "at most 8"], "spotserve", "--machines", "4", "--rate", "1", "--batch", "16")
        self.fails(78, ["powers of two"], "spotserve", "--machines", "4", "--rate", "1", "--batch", "3")
        for words, more in ((["--machines"], ["--rate", "1"]), (["'x'"], ["--machines", "4,x", "--rate", "1"]),
                            (["'0'"], ["--machines", "0", "--rate", "1"]), (["'257'"], ["--machines", "257", "--rate", "1"]),
                            (["--rate", "much"], ["--machines", "4", "--rate", "much"]),
                            (["--grace"], ["--machines", "4", "--rate", "1", "--grace", "soon"])):
            self.fails(64, words, "spotserve", *more)

    # ---- the figures of the page ----

    def test_published_figures(self):
        if not os.path.exists(os.path.join(TRACES, "spot", "ec2-p3.csv")):
            self.skipTest("needs ../shared (BRIGADE_SHARED)")
        fleet = self.result("fleet", "--trace", os.path.join(TRACES, "spot", "ec2-p3.csv"), "--model", "gpt-1.5b")
        for policy in fleet["policies"]:
            row = re.search(rf"\| {policy['policy']} \| ([0-9,]+) \| ([0-9.]+) \|", self.doc)
            self.assertEqual(row.group(1), f"{policy['samples']:,.0f}")
            self.assertEqual(row.group(2), f"{policy['against_throughput_optimal']:.3f}")
        fast = os.path.join(self.dir, "fast.csv")
        subprocess.run([BRIGADE, "trace", os.path.join(TRACES, "spot", "ec2-p3.csv"), "--time-scale", "0.25", "--out", fast],
                       check=True, capture_output=True)
        ratios = {p["policy"]: p["against_throughput_optimal"] for p in
                  self.result("fleet", "--trace", fast, "--model", "gpt-1.5b")["policies"]}
        row = re.search(r"\| 0.25 \| (.*) \|", self.doc).group(1).split(" | ")
        names = "parcae parcae-steady parcae-ideal oobleck varuna bamboo".split()
        self.assertEqual(row, [f"{ratios[name]:.3f}" for name in names])
        zones = [os.path.join(TRACES, "spot", f"aws-10-26-2022-us-west-2{z}_{kind}_1.json")
                 for kind in ("v100", "k80") for z in "ab"]
        service = self.result("service", "--requests", os.path.join(TRACES, "requests", "azure-llm-2023-conv.csv"),
                              "--hours", "24", "--zones", *zones)
        for policy in service["policies"]:
            row = re.search(rf"\| {policy['policy']} \| ([0-9.]+) \| ([0-9.]+) % \|", self.doc)
            self.assertEqual(row.group(1), f"{policy['cost']:.2f}")
            self.assertEqual(row.group(2), f"{100 * policy['availability']:.1f}")


if __name__ == "__main__":
    unittest.main()
