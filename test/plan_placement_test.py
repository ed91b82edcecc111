#!/usr/bin/python3
"""`brigade plan --placement`, `--lengths` and `--frontier`: recorded rows, answers judged by a checker of its own, and refusals."""
import json
import os
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SHARED = os.environ.get("BRIGADE_SHARED") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../shared")
BLOCKS = """placement 1 devices 2
block a span 2 memory 1 devices 0
block b span 1 devices 0,1 after a
block c span 3 devices 1 after b
block d span 1 memory -1 devices 0 after c
"""


def run(*args):
    done = subprocess.run([BRIGADE, "plan", *map(str, args)], capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def judge(test, answer, blocks):
    """Runs the lists: every block of every micro-batch once on its devices, inputs first; returns the makespan."""
    at, end, clock = [0] * answer["devices"], {}, [0] * answer["devices"]
    held, peak = [0] * answer["devices"], [0] * answer["devices"]
    total = len(blocks) * answer["micro_batches"]
    while len(end) < total:
        before = len(end)
        for d, ops in enumerate(answer["lists"]):
            if at[d] == len(ops):
                continue
            name, micro = ops[at[d]].split(":")
            span, memory, devices, needs = blocks[name]
            heads = [answer["lists"][e][at[e]] if at[e] < len(answer["lists"][e]) else None for e in devices]
            if any(head != ops[at[d]] for head in heads) or any((need, micro) not in end for need in needs):
                continue
            test.assertIn(d, devices)
            start = max([clock[e] for e in devices] + [end[need, micro] for need in needs])
            test.assertNotIn((name, micro), end)
            end[name, micro] = start + span
            for e in devices:
                clock[e] = start + span
                at[e] += 1
                held[e] += memory
                peak[e] = max(peak[e], held[e])
        test.assertGreater(len(end), before, "the lists wait for each other")
    test.assertEqual(peak, answer["peak_activations"])
    return max(clock)


def vshape(devices):
    blocks = {f"f{d}": (1, 1, [d], [f"f{d - 1}"] if d else []) for d in range(devices)}
    back = {f"b{d}": (3, -1, [d], [f"b{d + 1}"] if d + 1 < devices else [f"f{d}"]) for d in range(devices)}
    return blocks | back


class Help(unittest.TestCase):
    def test_every_question_has_one(self):
        for question in ("graph", "placement", "lengths", "frontier", "schedule", "profile"):
            code, out, err = run("--" + question, "--help")
            self.assertEqual((code, err), (0, ""))
            self.assertTrue(out.startswith("usage: brigade plan --" + question), out)


class Placement(unittest.TestCase):
    def ask(self, *args):
        code, out, err = run("--placement", *args, "--json")
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def test_recorded_rows(self):
        path = os.path.join(SHARED, "goldens/tessel_bubbles.tsv")
        if not os.path.exists(path):
            self.skipTest("no ../shared")
        with open(path) as file:
            lines = file.readlines()
        for line in lines:
            if line.startswith("#"):
                continue
            name, devices, micros, memory, bubbles, _, steps = line.rstrip("\n").split("\t")
            given = ["--devices", devices, "--memory-limit", memory]
            answer = self.ask(name, *given, "--in-flight", micros)
            self.assertEqual(answer["bubbles_per_repetend"], int(bubbles), line)
            self.assertTrue(answer["proved"])
            self.assertLessEqual(max(answer["peak_activations"]), int(memory))
            if steps != "-":
                warmup, repetend, cooldown = map(int, steps.split(","))
                self.assertEqual(answer["warmup"]["steps"], warmup)
                self.assertLessEqual(answer["repetend"]["steps"], repetend)
                self.assertEqual(answer["cooldown"]["steps"], cooldown)
            self.assertEqual(self.ask(name, *given, "--micro-batches", micros)["bubbles_per_repetend"], int(bubbles))

    def test_lists_run(self):
        for devices in 1, 2, 3, 5:
            for micros in 1, 4, 9:
                answer = self.ask("vshape", "--devices", devices, "--micro-batches", micros)
                self.assertEqual(judge(self, answer, vshape(devices)), answer["makespan"])
                self.assertEqual(answer["period"] - 4, answer["bubbles_per_repetend"])
        answer = self.ask("vshape", "--stages", 4, "--micro-batches", 32)
        self.assertEqual(answer["bubbles_per_repetend"], 0)
        answer = self.ask("vshape", "--schedule", "tessel", "--stages", 4, "--micro-batches", 8, "--f", 1, "--b", 2)
        self.assertEqual(answer["period"], 3)
        self.assertIn(answer["makespan"], range((8 + 4 - 1) * 3, 8 * 3 + 12))  # 1F1B's 33; not whole parts in a row

    def test_a_file(self):
        blocks = {"a": (2, 1, [0], []), "b": (1, 0, [0, 1], ["a"]), "c": (3, 0, [1], ["b"]), "d": (1, -1, [0], ["c"])}
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(BLOCKS)
            file.flush()
            for micros in 2, 6:
                answer = self.ask(file.name, "--micro-batches", micros)
                self.assertEqual((answer["bubbles_per_repetend"], answer["period"]), (0, 4))
                self.assertEqual(judge(self, answer, blocks), answer["makespan"])
            file.write("block e span 1 devices 2\n")
            file.flush()
            code, _, err = run("--placement", file.name)
            self.assertEqual(code, 65, err)
            self.assertIn("line 6: block e: expected devices from 0 to 1", err)

    def judge_sync(self, answer, blocks, comm):
        """Every block of every micro-batch once, a sync for its whole range at once; returns the makespan."""
        seen, free, range_ = {}, [[] for _ in range(answer["devices"])], answer["range"]
        for op in answer["ops"]:
            span, _, devices, _ = blocks[op["block"]]
            first, end = op["micro_batches"]
            self.assertEqual(op["devices"], devices)
            self.assertEqual(op["end"] - op["start"], span * (end - first))
            if op["block"] in answer["sync"]:
                self.assertEqual((first % range_, end), (0, min(first + range_, answer["micro_batches"])))
            else:
                self.assertEqual(end, first + 1)
            for micro in range(first, end):
                self.assertNotIn((op["block"], micro), seen)
                seen[op["block"], micro] = op
            for d in devices:
                free[d].append((op["start"], op["end"]))
        self.assertEqual(len(seen), len(blocks) * answer["micro_batches"])
        for op in answer["ops"]:
            for need in blocks[op["block"]][3]:
                for micro in range(*op["micro_batches"]):
                    there = seen[need, micro]
                    apart = not set(there["devices"]) & set(op["devices"])
                    self.assertGreaterEqual(op["start"], there["end"] + comm * apart)
        for spans in free:
            self.assertTrue(all(a[1] <= b[0] for a, b in zip(sorted(spans), sorted(spans)[1:])))
        return max(op["end"] for op in answer["ops"])

    def test_sync(self):
        """Towers that meet in a loss of a range of micro-batches."""
        every = list(range(4))
        kshape = {"xf0": (1, 1, [0], []), "xf1": (1, 1, [1], ["xf0"]), "yf0": (1, 1, [2], []), "yf1": (1, 1, [3], ["yf0"]),
                  "lf": (1, 1, every, ["xf1", "yf1"]), "lb": (1, -1, every, ["lf"]), "xb1": (3, -1, [1], ["lb"]),
                  "xb0": (3, -1, [0], ["xb1"]), "yb1": (3, -1, [3], ["lb"]), "yb0": (3, -1, [2], ["yb1"])}
        for args, spans in ((["--micro-batches", 6], None), (["--micro-batches", 8, "--comm", 2], 3), ([], 3)):
            answer = self.ask("kshape", "--devices", 4, "--sync", "lf,lb" + (f":{spans}" if spans else ""), *args)
            self.assertEqual(self.judge_sync(answer, kshape, 2 if "--comm" in args else 0), answer["makespan"])
            self.assertLessEqual(answer["lower_bound"], answer["makespan"])
        answer = self.ask("kshape", "--devices", 4, "--sync", "lf,lb:3", "--micro-batches", 9)
        self.assertEqual((answer["makespan"], answer["lower_bound"]), (58, 58))
        answer = self.ask("kshape", "--devices", 4, "--sync", "lf,lb:3", "--micro-batches", 9, "--memory-limit", 6)
        self.assertEqual(answer["peak_activations"], [6] * 4)
        blocks = {"a": (2, 1, [0], []), "b": (1, 0, [0, 1], ["a"]), "c": (3, 0, [1], ["b"]), "d": (1, -1, [0], ["c"])}
        with tempfile.TemporaryDirectory() as where:
            path, svg = os.path.join(where, "p.txt"), os.path.join(where, "p.svg")
            with open(path, "w") as file:
                file.write(BLOCKS)
            answer = self.ask(path, "--sync", "b", "--micro-batches", 5, "--svg", svg)
            self.assertEqual(self.judge_sync(answer, blocks, 0), answer["makespan"])
            self.assertEqual(answer["makespan"], 5 * (2 + 1 + 3) + 1)
            with open(svg) as file:
                text = file.read()
            self.assertEqual([text.count(f'class="{c}"') for c in ("take", "wide", "keep", "give")], [5, 2, 5, 5])
            self.ask(path, "--micro-batches", 5, "--svg", svg)
            with open(svg) as file:
                self.assertEqual(file.read().count('class="wide"'), 10)
            for sync, why in (("e", "e is no block"), ("b:0", "range from 1"), ("b", "--micro-batches is needed")):
                code, _, err = run("--placement", path, "--sync", sync)
                self.assertEqual(code, 78, err)
                self.assertIn(why, err)

    def test_refusals(self):
        for args, code, why in (
            (["vshape"], 64, "--devices"),
            (["kshape", "--devices", 4, "--sync", "lf", "--in-flight", 2], 64, "repetend"),
            (["kshape", "--devices", 4, "--sync", "lf", "--schedule", "tessel"], 64, "distmm"),
            (["kshape", "--devices", 4, "--sync", "lf,lb:4", "--memory-limit", 7], 78, "8 is enough; ranges of 2 fit"),
            (["wshape"], 66, "no such file"),
            (["kshape", "--devices", 3], 78, "even number"),
            (["kshape", "--devices", 4, "--memory-limit", 1], 78, "2 is enough"),
            (["vshape", "--devices", 4, "--in-flight", 9], 78, "at most 8"),
            (["vshape", "--devices", 4, "--in-flight", 3, "--micro-batches", 2], 64, "at most the 2"),
            (["vshape", "--devices", 4, "--schedule", "gpipe"], 64, "for tessel"),
        ):
            got, _, err = run("--placement", *args)
            self.assertEqual(got, code, err)
            self.assertIn(why, err)


class Lengths(unittest.TestCase):
    def ask(self, text, *args):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            return run("--lengths", file.name, *args)

    def test_micro_batches(self):
        lengths = [5, 900, 17, 33, 31, 512, 8, 5]
        text = "".join(f"{n}\n" for n in lengths)
        code, out, err = self.ask(text, "--stages", 4, "--fixed", 100, "--replicas", 2, "--json")
        self.assertEqual(code, 0, err)
        answer = json.loads(out)
        runs = answer["micro_batches"]
        self.assertEqual(sorted(i for r in runs for i in r["samples"]), list(range(8)))
        for r in runs:
            longest = max(lengths[i] for i in r["samples"])
            self.assertEqual(r["decoder"], (longest + 7) // 8 * 8)
            self.assertEqual(r["time"], 100 + len(r["samples"]) * r["decoder"])
            self.assertIn(r["replica"], (0, 1))
        times = [r["time"] for r in runs]
        self.assertAlmostEqual(answer["objective"], 3 * max(times) + sum(times) / 2)
        self.assertTrue(answer["exact"])

    def test_refusals(self):
        for text, args, code, why in (
            ("5\nx\n", [], 65, "line 2"),
            ("", [], 65, "no samples"),
            ("900\n", ["--tokens-max", 100], 78, "sample 0 alone has 904 tokens"),
            ("900\n", ["--stages", 0], 78, "at least 1"),
        ):
            got, _, err = self.ask(text, *args)
            self.assertEqual(got, code, err)
            self.assertIn(why, err)


class Frontier(unittest.TestCase):
    F, B = "2:10,3:7,4:6", "4:20,5:15,6:13,7:12"

    def ask(self, schedule, stages, micros, *args):
        return run("--frontier", schedule, "--stages", stages, "--micro-batches", micros, *args)

    def test_pipelines(self):
        for stages, micros in (2, 3), (3, 4), (4, 6):
            code, out, err = self.ask("1f1b", stages, micros, "--f", self.F, "--b", self.B, "--json")
            self.assertEqual(code, 0, err)
            answer = json.loads(out)
            points = [(p["time"], p["cost"]) for p in answer["points"]]
            fastest, slowest = (micros + stages - 1) * 6, (micros + stages - 1) * 11
            self.assertEqual([p[0] for p in points], list(range(slowest, fastest - 1, -1)))
            self.assertAlmostEqual(points[0][1], stages * micros * (6 + 12))
            self.assertLess(points[-1][1], stages * micros * (10 + 20) - 1e-9)  # what is not critical is not fast
            falls = [b[1] - a[1] for a, b in zip(points, points[1:])]
            self.assertTrue(all(y >= x - 1e-9 for x, y in zip([0] + falls, falls)))
            cost = {"F": dict(zip(range(2, 5), (10, 7, 6))), "B": dict(zip(range(4, 8), (20, 15, 13, 12)))}
            total = sum(cost[op["op"].strip("0123456789")[0]][op["time"]] for ops in answer["lists"] for op in ops)
            self.assertAlmostEqual(total, points[-1][1])

    def test_split_and_stages(self):
        code, out, err = self.ask("zb-h1", 2, 4, "--f", "1:2,2:1/1:3,2:1", "--b", "1:2", "--w", "1:5,2:4,3:4", "--json")
        self.assertEqual(code, 0, err)
        points = json.loads(out)["points"]
        self.assertAlmostEqual(points[0]["cost"], 4 * (1 + 1 + 2 * 2 + 2 * 4))

    def test_refusals(self):
        for args, code, why in (
            (["1f1b", 2, 2, "--f", "2:1,4:0", "--b", self.B], 64, "1 apart"),
            (["1f1b", 2, 2, "--f", "x", "--b", self.B], 64, "--f"),
            (["1f1b", 2, 2, "--f", self.F], 64, "--b are needed"),
            (["1f1b", 2, 2, "--f", self.F, "--b", self.B, "--w", "1:1"], 64, "no place"),
            (["zb-h1", 2, 2, "--f", self.F, "--b", self.B], 64, "--w is needed"),
            (["1f1b", 3, 2, "--f", "1:1/1:1", "--b", self.B], 64, "2 tables"),
            (["1f1b", 2, 2, "--f", "1:1,2:2", "--b", self.B], 78, "costs more"),
            (["1f1b", 2, 2, "--f", "1:5,2:4,3:0", "--b", self.B], 78, "not convex"),
            (["none", 2, 2, "--f", self.F, "--b", self.B], 78, "none"),
            (["1f1b", 4294967295, 2, "--f", self.F, "--b", self.B], 64, "at most"),
        ):
            got, _, err = self.ask(*args)
            self.assertEqual(got, code, err)
            self.assertIn(why, err)


if __name__ == "__main__":
    unittest.main()
