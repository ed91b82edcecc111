#!/usr/bin/python3
"""`brigade plan --graph`: plans worked out by hand, what it refuses, and the recorded optima where ../shared has them."""
import json
import os
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SHARED = os.environ.get("BRIGADE_SHARED") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../shared")


def run(*args):
    done = subprocess.run([BRIGADE, "plan", *args], capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def node(name, ms, parameters=0, activations=0, text="Layer"):
    return (f"node{name} -- {text} -- forward_compute_time={ms / 2}, backward_compute_time={ms / 2}, "
            f"activation_size={activations}, parameter_size={parameters}\n")


class Plan(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def graph(self, text):
        path = os.path.join(self.dir.name, "graph.txt")
        with open(path, "w") as out:
            out.write(text)
        return path

    def plan(self, *args):
        code, out, err = run(*args, "--json")
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def test_chain(self):
        """1, 1 and 2 s: two machines halve it, and a large layer is not copied."""
        path = self.graph(node(0, 9, text="Input0") + node(1, 1000) + node(2, 1000) + node(3, 2000, parameters=1e9) +
                          "\tnode0 -- node1\n\tnode1 -- node2\n\tnode2 -- node3\n")
        plan = self.plan("--graph", path, "--machines", "2", "--bandwidth", "1e9")
        self.assertEqual((plan["states"], plan["t_single"], plan["t_pipe"]), (3, 4, 2))
        self.assertEqual(plan["t_dp"], (4 + 4 * 1e9 / (1e9 * 2)) / 2)
        self.assertEqual(plan["levels"], [{"level": 1, "machines": 2, "bandwidth": 1e9, "stages": [
            {"first": 0, "end": 2, "replicas": 1, "part_of": 0}, {"first": 2, "end": 3, "replicas": 1, "part_of": 0}]}])
        code, out, err = run("--graph", path, "--machines", "2", "--bandwidth", "1e9")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("t_pipe    2 s, 2.00 times as fast\n", out)
        self.assertRegex(out, r"\n +1 +- +2\.\.2 +1\n")

    def test_activations_cost_only_when_asked(self):
        path = self.graph(node(1, 1000, activations=6e9) + node(2, 1000) + "\tnode1 -- node2\n")
        base = ("--graph", path, "--machines", "2", "--bandwidth", "1e9", "--straight-pipeline")
        self.assertEqual(self.plan(*base)["t_pipe"], 1)
        self.assertEqual(self.plan(*base, "--activation-compression-ratio", "4")["t_pipe"], 3)

    def test_levels_and_branches(self):
        path = self.graph(node(1, 1000) + node(2, 1000) + node(3, 1000) + node(4, 1000) +
                          "\tnode1 -- node2\n\tnode1 -- node3\n\tnode2 -- node4\n\tnode3 -- node4\n")
        plan = self.plan("--graph", path, "--machines", "2,2", "--bandwidth", "1e10,1e9")
        self.assertEqual((plan["states"], plan["t_single"], plan["t_pipe"], plan["t_dp"]), (5, 4, 1, 1))
        self.assertEqual([level["level"] for level in plan["levels"]], [2, 1])
        for level in plan["levels"]:
            self.assertEqual(level["stages"][0]["first"], 0)
            self.assertEqual(level["stages"][-1]["end"], 5)

    def test_odd_numbers(self):
        """Layers that take no time, and the largest and slowest there may be: no number is left without a value."""
        path = self.graph(node(1, 0) + node(2, 0) + "\tnode1 -- node2\n")
        code, out, err = run("--graph", path, "--machines", "2", "--bandwidth", "1e9")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("t_pipe    0 s\nt_dp      0 s\n", out)
        path = self.graph(node(1, 2e18, 1e18, 1e18) + node(2, 2e18, 1e18, 1e18) + "\tnode1 -- node2\n")
        plan = self.plan("--graph", path, "--machines", "2", "--bandwidth", "1e-30", "--activation-compression-ratio", "1e-30")
        self.assertEqual(plan["t_single"], 4e15)

    def test_refusals(self):
        path = self.graph(node(1, 1) + "\tnode1 -- node2\n")
        good = self.graph(node(1, 1)) + ".none"
        for args, code, text in [
                ((), 64, "--graph, --machines and --bandwidth"),
                (("--graph", path, "--machines", "2,2", "--bandwidth", "1e9"), 64, "one bandwidth for each level"),
                (("--graph", path, "--machines", "0", "--bandwidth", "1e9"), 64, "whole number from 1"),
                (("--graph", path, "--machines", "2", "--bandwidth", "fast"), 64, '"fast"'),
                (("--graph", path, "--machines", "2", "--bandwidth", "1", "--memory", "0"), 64, "--memory"),
                (("--graph", path, "--machines", "2", "--bandwidth", "1e-300"), 64, "--bandwidth"),
                (("--graph", path, "--machines", "2", "--bandwidth", "1", "--activation-compression-ratio", "1e-300"), 64,
                 "--activation-compression-ratio"),
                (("--graph", good, "--machines", "2", "--bandwidth", "1e9"), 66, good)]:
            result = run(*args)
            self.assertEqual(result[0], code, result)
            self.assertIn(text, result[2])
        self.graph(node(1, 1) + "\tnode1 -- node2\n")
        code, out, err = run("--graph", path, "--machines", "2", "--bandwidth", "1e9")
        self.assertEqual((code, out), (65, ""))
        self.assertIn(path + ": line 2: an edge with node2", err)
        self.graph(node(1, 1))
        code, out, err = run("--graph", path, "--machines", "2", "--bandwidth", "1e9", "--straight-pipeline")
        self.assertEqual((code, out), (78, ""))
        self.assertIn("fewer machines", err)

    def test_recorded(self):
        table = os.path.join(SHARED, "goldens/pipedream_times.tsv")
        if not os.path.exists(table):
            self.skipTest("no goldens/pipedream_times.tsv in ../shared or BRIGADE_SHARED")
        with open(table) as lines:
            rows = [line.rstrip("\n").split("\t") for line in lines if not line.startswith("#")]
        for model, machines, bandwidth, options, states, single, pipe, data, _ in rows:
            args = ["--graph", os.path.join(SHARED, f"data/profiles/pipedream-{model}.txt"), "--machines", machines,
                    "--bandwidth", bandwidth]
            for option in options.split(";"):
                name, _, value = option.partition("=")
                if name == "comm" and value != "off":
                    args += ["--activation-compression-ratio", value]
                elif name == "mem":
                    args += ["--memory", value]
                elif name != "comm":
                    args.append("--" + name.replace("_", "-"))
            plan = self.plan(*args)
            self.assertEqual(plan["states"], int(states))
            for key, recorded in (("t_single", single), ("t_pipe", pipe), ("t_dp", data)):
                digits = len(recorded.partition(".")[2])
                self.assertAlmostEqual(plan[key], float(recorded), delta=max(1e-9 * float(recorded), 0.51 / 10 ** digits))


if __name__ == "__main__":
    unittest.main()
