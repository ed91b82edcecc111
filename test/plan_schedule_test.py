#!/usr/bin/python3
"""`brigade plan --schedule`: published figures, each list judged by a checker of its own, and what it refuses."""
import json
import os
import re
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SHARED = os.environ.get("BRIGADE_SHARED") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../shared")
NAMES = ("gpipe 1f1b interleaved interleaved:3 zb-h1 zb-2p zb-v zb-v-half zb-v-min seq1f1b seq1f1b:4 "
         "tessel tessel:2 distmm distmm:3").split()


def run(schedule, *args):
    done = subprocess.run([BRIGADE, "plan", "--schedule", schedule, *map(str, args)], capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def plan(test, schedule, workers, items, *args):
    code, out, err = run(schedule, "--stages", workers, "--micro-batches", items, *args, "--json")
    test.assertEqual(code, 0, err)
    return json.loads(out)


def parse(text):
    stage, kind, item, part = re.fullmatch(r"(\d+)(F|BW|B|W)(\d+)(?:/(\d+))?", text).groups()
    return int(stage), kind, int(item), int(part or 0)


def replay(lists, stages, slices, times, comm):
    """Spans of the workers, their work and most items in flight; every op once, in an order that runs."""
    f, b, w = times
    end, at, clock, first = {}, [0] * len(lists), [0.0] * len(lists), [None] * len(lists)
    work, held, most = [0.0] * len(lists), [0.0] * len(lists), [0.0] * len(lists)
    left = sum(map(len, lists))
    while left:
        before = left
        for who, ops in enumerate(lists):
            while at[who] < len(ops):
                s, kind, i, k = parse(ops[at[who]])
                whole = kind == "W"
                needs = [("B", s, i, 0)] if whole else [("F", s - 1, i, k)] if kind == "F" and s else []
                if kind[0] == "B":
                    needs = [("F", s, i, slices - 1 if k == slices - 1 else k)]
                    needs += [("B", s + 1, i, k)] if s + 1 < stages else []
                    needs += [("B", s, i, k + 1)] if k + 1 < slices else []
                if kind == "F" and k:
                    needs.append(("F", s, i, k - 1))
                if any(need not in end for need in needs):
                    break
                start = max([clock[who]] + [t + (0 if by == who else comm) for t, by in (end[n] for n in needs)])
                cost = w if whole else (f if kind == "F" else b + w if kind == "BW" else b) / slices
                key = (kind[0], s, i, k)
                assert key not in end, key
                end[key] = (start + cost, who)
                clock[who] = start + cost
                work[who] += cost
                first[who] = start if first[who] is None else first[who]
                held[who] += 1 / slices if kind == "F" else -1 if kind in ("W", "BW") else 0
                most[who] = max(most[who], held[who])
                at[who] += 1
                left -= 1
        assert left < before, "stands still"
    return [c - s for c, s in zip(clock, first)], work, most, max(clock) - min(first), end


class Schedule(unittest.TestCase):
    def test_judged(self):
        """Every schedule over some shapes: complete, and timed as an independent replay times it."""
        for name in NAMES:
            for workers, items, times, comm in ((1, 1, (1, 1, 1), 0), (4, 8, (1, 1, 1), 0), (3, 6, (10, 11, 8), 1), (5, 10, (2, 4, 1), 3)):
                with self.subTest(schedule=name, workers=workers):
                    made = plan(self, name, workers, items, "--f", times[0], "--b", times[1], "--w", times[2], "--comm", comm)
                    spans, work, most, makespan, end = replay(made["lists"], made["stages"], made["slices"], times, comm)
                    self.assertAlmostEqual(made["makespan"], makespan)
                    self.assertAlmostEqual(made["max_stage_span"], max(spans))
                    longest = min(range(workers), key=lambda who: (-spans[who], who))
                    self.assertAlmostEqual(made["bubble"], spans[longest] - work[longest])
                    for one, other in zip(made["peak_activations"], most):
                        self.assertAlmostEqual(one, other)
                    cells = made["stages"] * items
                    self.assertEqual(sum(key[0] == "F" for key in end), cells * made["slices"])
                    self.assertEqual(sum(key[0] == "B" for key in end), cells * made["slices"])

    def test_published(self):
        for name, workers, items, span, peaks in (
                ("1f1b", 4, 8, 33, [4, 3, 2, 1]), ("1f1b", 8, 16, 69, [8, 7, 6, 5, 4, 3, 2, 1]), ("gpipe", 4, 8, 33, [8] * 4),
                ("interleaved", 4, 8, 57, [11, 9, 7, 5]), ("interleaved:4", 4, 8, 105, [19, 17, 15, 13]),
                ("zb-h1", 4, 8, 27, [4] * 4), ("zb-2p", 4, 8, 24, [8] * 4), ("zb-v", 8, 24, 144, [16] * 8)):
            made = plan(self, name, workers, items)
            self.assertEqual((made["max_stage_span"], made["peak_activations"]), (span, peaks), name)
        for name, workers, items, rate in (("zb-v", 4, 16, 0.0293), ("zb-v", 8, 24, 0.0537)):
            made = plan(self, name, workers, items, "--f", 10, "--b", 11, "--w", 8, "--comm", 1)
            self.assertEqual(round(made["bubble"] / made["max_stage_span"], 4), rate)

    def test_recorded(self):
        path = os.path.join(SHARED, "goldens/zero_bubble.txt")
        if not os.path.exists(path):
            self.skipTest("no goldens/zero_bubble.txt in ../shared or BRIGADE_SHARED")
        row = re.compile(r"\{(.*?)\} best_time\(max stage span\) ([\d.]+).* bubble ([\d.]+).* peak_act (\[.*\])")
        with open(path) as lines:
            rows = [found.groups() for found in map(row.match, lines) if found]
        self.assertTrue(rows)
        for request, span, bubble, peaks in rows:
            q = dict(re.findall(r"'(\w+)': ([\d.]+)", request))
            made = plan(self, "zb-h1", q["p"], q["m"], "--f", q["f"], "--b", q["b"], "--w", q["w"], "--comm", q["c"],
                        "--memory-limit", q["limit"])
            self.assertEqual((made["max_stage_span"], made["bubble"], made["peak_activations"]),
                             (float(span), float(bubble), json.loads(peaks)), request)

    def test_stages_differ(self):
        """A time for each stage: the slow stage bounds the step."""
        made = plan(self, "1f1b", 2, 6, "--f", "1,3", "--b", "1,3", "--w", "1,3")
        self.assertEqual(made["makespan"], 1 + 6 * 9 + 2)

    def test_people(self):
        code, out, err = run("zb-h1", "--stages", 2, "--micro-batches", 3)
        self.assertEqual((code, err), (0, ""))
        self.assertIn("bubble    1 of it, 10.0 %\n", out)
        self.assertRegex(out, r"\n +0  F0 F1 +B0 W0 F2 B1 W1 B2 W2 *\n +1     F0 B0 F1 B1 W0 F2 B2 W1 W2 *\n")

    def test_trained(self):
        """On real workers every schedule has the bits of one process."""
        with tempfile.TemporaryDirectory() as home:
            corpus = os.path.join(home, "corpus.txt")
            with open(corpus, "w") as out:
                out.write("".join(f"line {n}: {n * n} and {n ** 3}\n" for n in range(2000)))
            hashes = {}
            for name, shape in [("1f1b", "1x1")] + [(name, "2x1") for name in NAMES if ":" not in name] + [("zb-v", "1+2")]:
                directory = os.path.join(home, f"{name}-{shape}")
                done = subprocess.run(
                    [BRIGADE, "train", corpus, "model.layers=4", "model.dim=32", "model.heads=2", "model.kv_heads=2",
                     "model.ffn=64", "model.context=128", "train.steps=2", "train.micro_batches=4", "train.micro_batch=1",
                     "train.eval_every=0", "train.checkpoint_every=0", "run.threads=1", "run.shadow=false",
                     "run.plan=" + shape, "run.schedule=" + name, "run.dir=" + directory], capture_output=True, timeout=120)
                self.assertEqual(done.returncode, 0, (name, done.stderr))
                with open(os.path.join(directory, "result.json")) as result:
                    hashes[name, shape] = json.load(result)["weights_sha256"]
            self.assertEqual(len(set(hashes.values())), 1, hashes)

    def test_least_memory(self):
        """What a refusal names is enough, and a little less is not."""
        for name in NAMES:
            for workers, items in ((1, 5), (4, 3), (5, 15), (13, 8)):
                if name.startswith("interleaved") and items % workers:
                    continue
                code, out, err = run(name, "--stages", workers, "--micro-batches", items, "--memory-limit", 1, "--json")
                if code == 0:
                    continue
                least = float(re.search(r"(?:give it|need it for|;) ([\d.]+)(?: is enough|,|;)", err).group(1))
                with self.subTest(schedule=name, workers=workers, least=least):
                    made = plan(self, name, workers, items, "--memory-limit", least)
                    self.assertLessEqual(max(made["peak_activations"]), least)
                    self.assertEqual(run(name, "--stages", workers, "--micro-batches", items, "--memory-limit", least - 0.125)[0], 78)

    def test_refusals(self):
        for name, args, code, text in (
                ("zigzag", (2, 2), 78, "expected gpipe, 1f1b, interleaved[:CHUNKS]"),
                ("1f1b:2", (2, 2), 78, 'schedule "1f1b:2"'),
                ("interleaved:0", (2, 2), 78, 'schedule "interleaved:0"'),
                ("interleaved", (4, 6), 78, "take 8 micro-batches"),
                ("1f1b", (4, 8, "--memory-limit", 2), 78, "give it 4"),
                ("zb-v", (4, 8, "--memory-limit", 2), 78, "4 workers need it for 8"),
                ("zb-h1", (4, 8, "--memory-limit", 0.5), 78, "at least 1"),
                ("zb-h1", (4, 8, "--memory-limit", 0), 64, "--memory-limit 0"),
                ("zb-h1", (4, 4000000000), 78, "4000000000 micro-batches"),
                ("zb-v", (200, 4), 64, "take --stages 128"),
                ("gpipe", (0, 4), 64, "--stages P and --micro-batches M"),
                ("gpipe", (2, 4, "--f", "1,2,3"), 64, "3 numbers"),
                ("gpipe", (2, 4, "--w", "nan"), 64, '--w: "nan"'),
                ("gpipe", (2, 4, "--comm", "-1"), 64, '--comm: "-1"')):
            result = run(name, "--stages", args[0], "--micro-batches", *args[1:])
            self.assertEqual(result[:2], (code, ""), result)
            self.assertIn(text, result[2])


if __name__ == "__main__":
    unittest.main()
