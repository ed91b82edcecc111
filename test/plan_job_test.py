#!/usr/bin/python3
"""`brigade plan JOB.yaml`: the table, JSON, money, pictures that are legible, plans that train runs with the hashes of
one process, and what it refuses."""
import json
import os
import re
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SVG = "{http://www.w3.org/2000/svg}"
JOB = """model: {layers: %d, dim: 32, heads: 2, context: 16}
data: {train: [corpus.txt]}
train: {steps: 3, micro_batch: 2, micro_batches: %d, eval_every: 0, checkpoint_every: 0}
run: {dir: run}
"""


class PlanJob(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.dir = temporary.name
        self.write("corpus.txt", "to plan is to choose before a second is spent. " * 400)

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w") as out:
            out.write(text)
        return name

    def read(self, name):
        with open(os.path.join(self.dir, name)) as file:
            return file.read()

    def brigade(self, *args):
        done = subprocess.run([BRIGADE, *args], cwd=self.dir, capture_output=True, timeout=120)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def must(self, *args):
        code, out, err = self.brigade(*args)
        self.assertEqual(code, 0, err)
        return out

    def refused(self, expected_code, *args):
        code, out, err = self.brigade(*args)
        self.assertEqual(code, expected_code, err)
        self.assertEqual(out, "")
        return err

    def job(self, layers=4, micro_batches=8):
        return self.write("job.yaml", JOB % (layers, micro_batches))

    def profile(self, layers=4):
        """A block takes 3 x 4 ms, the head 18 ms, an embedding nothing to speak of."""
        block = "unit block forward_s 0.004 input_s 0.004 weight_s 0.004 parameter_bytes 3e7 stash_bytes 6e6 cut_bytes 4e5\n"
        return self.write("profile.txt", "profile 1\nunit embed forward_s 1e-5 parameter_bytes 2e7 cut_bytes 4e5\n" +
                          block * layers +
                          "unit head forward_s 0.006 input_s 0.006 weight_s 0.006 parameter_bytes 2e7 stash_bytes 3e6\n"
                          "overhead op_s 2e-5 message_s 1e-5 commit_s 1e-3 step_byte_s 1e-10\n"
                          "link inner latency_s 3e-5 bytes_s 1e10\nlink outer latency_s 2e-4 bytes_s 1e9\n")

    def machines(self, count, memory=4e9, slow=1):
        return self.write("machines.txt", "profile 1\n" + "".join(
            f"machine {'fast' if i % 2 else 'slow'}-{i} speed {2 if i % 2 else slow} memory {memory} host {i // 2}\n"
            for i in range(count)))

    # ---- What is said ----

    def test_table_and_money(self):
        self.write("prices.yaml", "# an hour\nfast-*: 7.2\n'slow-0': 3.6\n")
        args = ("plan", self.job(), "--profile", self.profile(), "--machines", self.machines(2), "--prices", "prices.yaml")
        plan = json.loads(self.must(*args, "--json"))
        self.assertEqual(sum(stage["unit_end"] - stage["unit_first"] for stage in plan["stages"]), 6)
        for stage in plan["stages"]:
            self.assertEqual(sum(machine["share"] for machine in stage["machines"]), 8)
            for machine in stage["machines"]:
                self.assertLessEqual(machine["memory_bytes"], machine["memory_limit_bytes"])
                self.assertAlmostEqual(machine["idle"], 1 - machine["busy_s"] / plan["step_s"])
        tokens = 2 * 8 * 16
        self.assertAlmostEqual(plan["tokens_per_second"], tokens / plan["step_s"], 3)
        names = {machine["machine"] for stage in plan["stages"] for machine in stage["machines"]}
        hourly = 7.2 * ("fast-1" in names) + 3.6 * ("slow-0" in names)
        self.assertAlmostEqual(plan["money"]["dollars_step"], hourly * plan["step_s"] / 3600, 9)
        self.assertAlmostEqual(plan["money"]["dollars_job"], 3 * plan["money"]["dollars_step"], 9)
        self.assertAlmostEqual(plan["money"]["dollars_million_tokens"], plan["money"]["dollars_step"] / tokens * 1e6, 6)
        self.assertGreaterEqual(plan["next"][0]["step_s"], plan["step_s"])
        # 8 micro-batches of 66 ms on machines of speeds 2 and 1 take a third of it at the very least.
        self.assertGreater(plan["step_s"], 8 * 0.066 / 3)
        self.assertLess(plan["step_s"], 8 * 0.066 / 2 * 1.1)
        out = self.must(*args, "--explain")
        self.assertRegex(out, r"stage +units +worker +machine +share +memory +time +idle %")
        for part in ("tokens/s", "money ", "What bounds it: ", "Next: ", "Memory: ", "run.plan=" + plan["shape"]):
            self.assertIn(part, out)
        self.assertEqual(out, self.must(*args, "--explain"))

    def test_schedules_and_shapes(self):
        base = ("plan", self.job(), "--profile", self.profile(), "--machines", self.machines(4, slow=2), "--json")
        given = json.loads(self.must(*base, "run.plan=2x2", "run.group=1", "--schedule", "zb-h1"))
        self.assertEqual((given["shape"], given["schedule"], given["workers"]), ("2x2", "zb-h1", 4))
        flush = json.loads(self.must(*base, "run.plan=2x1", "run.group=1"))
        less = json.loads(self.must(*base, "run.plan=2x1", "run.group=1", "--schedule", "zb-h1"))
        self.assertLess(less["step_s"], flush["step_s"])
        chunks = json.loads(self.must(*base, "run.plan=2x1", "run.group=1", "--schedule", "interleaved:2"))
        self.assertEqual((chunks["workers"], len(chunks["stages"])), (2, 4))
        best = json.loads(self.must(*base))
        self.assertLessEqual(best["step_s"], flush["step_s"])

    def test_a_given_shape_is_explained(self):
        """Beside the one that would be chosen: its step, and where the difference is."""
        base = ("plan", self.job(), "--profile", self.profile(), "--machines", self.machines(4, slow=2))
        best = json.loads(self.must(*base, "--json"))
        given = json.loads(self.must(*base, "run.plan=4x1", "run.group=1", "--explain", "--json"))
        self.assertEqual(given["shape"], "4x1")
        self.assertEqual(given["freely"]["shape"], json.loads(self.must(*base, "run.group=1", "--json"))["shape"])
        self.assertLess(given["freely"]["step_s"], given["step_s"])
        less = 100 * (1 - given["freely"]["step_s"] / given["step_s"])
        out = self.must(*base, "run.plan=4x1", "run.group=1", "--explain")
        self.assertRegex(out, r"The shape was given; chosen freely it is %s in items of 1, [\d.]+ m?s, %.1f %% less\." %
                         (re.escape(given["freely"]["shape"]), less))
        self.assertIn("What bounds it: ", out)
        self.assertNotIn("no plan of another shape", out)
        out = self.must(*base, "run.plan=" + best["shape"], "--explain")
        self.assertIn("The shape was given; chosen freely it is the same.\nNext: ", out)

    def test_unequal_stages_keep_up(self):
        """Stages of one and of more machines: each gets its items when it is ready for them, as the formula has it."""
        base = ("plan", self.job(14, 32), "--profile", self.profile(14), "--machines", self.machines(16), "--json")
        for shape in ("1+1+1+1+2+2+2+2+2+2", "1+2+1+2+1+2+1+2", "1+3+2", "2+1+2", "1+1+1+2+2+3+3"):
            with self.subTest(shape=shape):
                plan = json.loads(self.must(*base, "run.plan=" + shape, "run.group=1"))
                self.assertLess(plan["step_s"], 1.4 * plan["formula_s"])

    def test_passes(self):
        """What is asked for is priced, what is open is chosen, and both are said."""
        base = ("plan", self.job(), "--profile", self.profile(), "--machines", self.machines(2), "run.plan=1x2", "run.group=1")
        none = json.loads(self.must(*base, "--passes", "none", "--json"))
        self.assertEqual(none["passes"]["applied"], "none")
        self.assertIn(" run.passes=none", none["keys"])
        auto = json.loads(self.must(*base, "--json"))
        self.assertLess(auto["step_s"], none["step_s"])
        self.assertTrue(auto["passes"]["gains"]["wait-free"]["applied"])
        self.assertAlmostEqual(auto["passes"]["gains"]["wait-free"]["before_s"], none["step_s"], 9)
        given = json.loads(self.must(*base, "--passes", "one-owner:1,chunks:3,factors", "--json"))
        self.assertEqual(given["passes"]["applied"], "one-owner:1,chunks:3")
        self.assertAlmostEqual(given["passes"]["gains"]["chunks"]["after_s"], given["step_s"], 9)
        self.assertGreater(given["passes"]["factors"]["gradient_bytes"], 0)
        out = self.must(*base, "--explain")
        for part in ("Pass wait-free (", " shorter by ", "Pass one-owner", "Pass chunks", "Factors in place of"):
            self.assertIn(part, out)
        self.assertIn("expected auto, none", self.refused(78, *base, "--passes", "chunks:65"))

    def test_many_machines(self):
        """102 units on 64 machines that differ: a machine a stage is not missed, neither when asked for nor when best."""
        self.write("many.txt", "profile 1\n" + "".join(
            f"machine m{i} speed {1 + i * 7 % 13 / 4} memory 4e9 host {i // 4}\n" for i in range(64)))
        base = ("plan", self.job(100, 64), "--profile", self.profile(100), "--machines", "many.txt", "--json")
        best = json.loads(self.must(*base))
        self.assertLess(best["step_s"], 1.1 * best["formula_s"])
        row = json.loads(self.must(*base, "run.plan=64x1", "run.group=1"))
        self.assertEqual(row["workers"], 64)
        self.assertLess(best["step_s"], row["step_s"])

    def test_odd_machines(self):
        """One, 300, without memory, of one name, lines that end as elsewhere: the sums are those of any plan."""
        def plan(machines, *more, micro_batches=8):
            self.write("odd.txt", "profile 1\n" + machines)
            out = self.must("plan", self.job(4, micro_batches), "--profile", "profile.txt", "--machines", "odd.txt",
                            "--json", *more)
            found = json.loads(out, parse_constant=self.fail)
            for stage in found["stages"]:
                self.assertEqual(sum(machine["share"] for machine in stage["machines"]), micro_batches)
            return found

        self.profile()
        self.assertEqual(plan("machine a\n")["shape"], "1x1")
        self.assertEqual(plan("machine a\nmachine a\n", micro_batches=1)["items"], 1)
        plan("".join(f"machine m{i} speed {1 + i % 3} host {i // 4}\n" for i in range(300)))
        limit = plan("machine a memory 0\nmachine b memory 0\n", "run.plan=2x1")["stages"][0]["machines"][0]
        self.assertEqual(limit["memory_limit_bytes"], 0)
        unix = plan("machine a\nmachine b speed 3\n")
        self.write("profile.txt", self.read("profile.txt").replace("\n", "\r\n"))
        self.assertEqual(plan("machine a\r\nmachine b speed 3\r\n"), unix)
        self.write("profile.txt", self.read("profile.txt").replace("parameter_bytes 3e7", "parameter_bytes 1e18"))
        self.assertGreater(plan("machine a\n")["stages"][0]["machines"][0]["memory_bytes"], 1e19)
        out = self.must("plan", "job.yaml", "--profile", "profile.txt", "--machines", "odd.txt", "--out", "its plan.txt")
        self.assertIn("brigade train JOB run.plan='its plan.txt' ", out)
        self.assertRegex(out, r" \d+ PB ")

    def test_this_host_is_measured(self):
        code, out, err = self.brigade("plan", self.job(), "--machines", "2", "run.threads=1")
        self.assertEqual(code, 0, err)
        self.assertIn("measuring this machine", err)
        self.assertRegex(out, r"\n0 +0\.\.\d +0 +local0 ")
        self.assertIn("run.threads=1", out)

    # ---- Pictures ----

    def check_picture(self, text):
        """Nothing is clipped, no two texts touch, every item stands in its box."""
        root = ElementTree.fromstring(text)
        width, height = float(root.get("width")), float(root.get("height"))
        css = dict(re.findall(r"([.\w]+)\{font-size:([\d.]+)px", "".join(root.itertext())))
        texts, box = [], None
        for element in root.iter():
            if element.tag == SVG + "rect" and element.get("x"):
                box = [float(element.get(key)) for key in ("x", "y", "width", "height")]
                self.assertLessEqual(box[0] + box[2], width + 0.11)
                self.assertLessEqual(box[1] + box[3], height)
            if element.tag != SVG + "text":
                continue
            name, x, y = element.get("class", ""), float(element.get("x")), float(element.get("y"))
            if name.startswith("n"):
                self.assertTrue(box[0] < x < box[0] + box[2] and box[1] < y < box[1] + box[3])
                continue
            size = float(element.get("font-size") or css.get("." + name) or css.get("text") or 12)
            length = 0.57 * size * len(element.text)
            left = {"start": x, "middle": x - length / 2, "end": x - length}[element.get("text-anchor")]
            self.assertTrue(left >= 0 and left + length <= width and y <= height, element.text)
            for other, right, start, base, tall in texts:
                self.assertFalse(abs(base - y) < 0.7 * max(size, tall) and left < right and start < left + length,
                                 f"{other} and {element.text}")
            texts.append((element.text, left + length, left, y, size))
        return root

    def test_pictures(self):
        for workers in (2, 4, 8, 16):
            with self.subTest(workers=workers):
                args = ("plan", self.job(14, 32), "--profile", self.profile(14), "--machines", self.machines(workers),
                        "run.plan=%dx1" % workers, "--svg", "step.svg", "--map-svg", "map.svg", "--json")
                plan = json.loads(self.must(*args))
                step, units = self.read("step.svg"), self.read("map.svg")
                root = self.check_picture(step)
                self.check_picture(units)
                classes = [element.get("class") for element in root.iter(SVG + "rect")]
                self.assertEqual(classes.count("f0"), plan["items"] * workers + 1)
                self.assertEqual(classes.count("b0"), plan["items"] * workers + 1)
                self.assertEqual(classes.count("i"), workers + 1)
                self.assertEqual(units.count(">32 of 32<"), workers)
                self.must(*args)
                self.assertEqual((step, units), (self.read("step.svg"), self.read("map.svg")))

    def test_pictures_of_schedules(self):
        for name, workers, items in (("1f1b", 2, 8), ("zb-2p", 4, 8), ("zb-v", 8, 16), ("seq1f1b:4", 4, 4),
                                     ("interleaved:2", 8, 32), ("gpipe", 16, 64)):
            with self.subTest(schedule=name):
                out = self.must("plan", "--schedule", name, "--stages", str(workers), "--micro-batches", str(items),
                                "--svg", "s.svg", "--json")
                picture = self.read("s.svg")
                self.check_picture(picture)
                made = json.loads(out)
                ops = sum(len(ops) for ops in made["lists"])
                boxes = len(re.findall(r'class="[fbw]\d"', picture)) - len(re.findall(r">[FBW]: ", picture))
                self.assertEqual(boxes, ops)
                self.assertGreaterEqual(len(re.findall(r'class="n[fbw]"', picture)), 0.9 * ops)
                self.assertIn(f"step {made['makespan']} turns, bubble {made['bubble']} ", picture)

    # ---- Plans that run ----

    def test_train_runs_the_plan(self):
        train = ("train", self.job(), "--json", "--quiet", "run.threads=1", "run.shadow=false")
        hashes = ("curve_sha256", "weights_sha256")
        alone = json.loads(self.must(*train, "run.dir=alone"))
        plans = (("run.plan=2x1",), ("run.plan=1+2", "run.group=2"), ("run.plan=2x1", "--schedule", "zb-h1"),
                 ("run.plan=2x1", "--schedule", "zb-v"), ("run.plan=2x1", "--schedule", "interleaved:3"),
                 ("run.plan=1x3", "--passes", "one-owner:1,chunks:2"))
        for index, keys in enumerate(plans):
            with self.subTest(keys=keys):
                plan = json.loads(self.must("plan", "job.yaml", "--profile", self.profile(), "--machines",
                                            self.machines(4), "--out", "plan.txt", "--json", *keys))
                self.assertIn("# brigade train JOB run.plan=plan.txt ", self.read("plan.txt"))
                told = [key for key in plan["keys"].split() if not key.startswith("run.speeds")]
                ran = json.loads(self.must(*train, *told, "run.dir=run%d" % index))
                self.assertEqual([ran[key] for key in hashes], [alone[key] for key in hashes])
                stages = re.findall(r"^stage .*$", self.read("plan.txt"), re.M)
                self.assertEqual(stages, re.findall(r"^stage .*$", self.read("run%d/plan.txt" % index), re.M))

    def test_a_plan_of_several_stages_a_worker_is_priced_again(self):
        """As it is, by the schedule that it was made for; any other seats workers elsewhere."""
        base = ("plan", self.job(), "--profile", self.profile(), "--machines", self.machines(2), "--json", "run.group=1")
        made = json.loads(self.must(*base, "run.plan=2x1", "--schedule", "zb-v", "--out", "plan.txt"))
        again = json.loads(self.must(*base, "run.plan=plan.txt", "--schedule", "zb-v", "--out", "again.txt"))
        self.assertEqual((again["step_s"], again["shape"]), (made["step_s"], "2x1"))
        self.assertEqual(self.read("again.txt").split("\n")[2:], self.read("plan.txt").split("\n")[2:])
        moved = self.read("plan.txt").replace("\nstage 0 0 2\nstage 1 2 3\n", "\nstage 0 0 1\nstage 1 1 3\n")
        self.assertNotEqual(moved, self.read("plan.txt"))
        self.write("plan.txt", moved)
        again = json.loads(self.must(*base, "run.plan=plan.txt", "--schedule", "zb-v"))
        self.assertEqual([(stage["unit_first"], stage["unit_end"]) for stage in again["stages"]][:2], [(0, 1), (1, 3)])
        for schedule in ("1f1b", "interleaved:2", "zb-h1", "interleaved:3"):
            self.assertIn("the workers of plan.txt do not sit as run.schedule=" + schedule,
                          self.refused(78, *base, "run.plan=plan.txt", "--schedule", schedule))

    # ---- What is refused ----

    def test_impossible(self):
        base = ("plan", self.job(), "--profile", self.profile())
        err = self.refused(78, *base, "--machines", self.machines(2, memory=5e7))
        self.assertRegex(err, r"needs 0\.\d+ GB, the largest machine .* has 0\.05 GB: give a machine 0\.\d+ GB")
        err = self.refused(78, *base, "--machines", self.machines(2, memory=3e8))
        self.assertRegex(err, r"no plan fits")
        err = self.refused(78, *base, "--machines", self.machines(2), "run.plan=4x1")
        self.assertIn("2 more are needed", err)
        err = self.refused(78, *base, "--machines", self.machines(16), "run.plan=1x16")
        self.assertIn("16 replicas", err)
        self.assertIn("8 micro-batches", err)
        err = self.refused(78, *base, "--machines", self.machines(2), "--schedule", "seq1f1b:4", "run.plan=2x1")
        self.assertRegex(err, r"into 4 slices.*at most \d+ slice")

    def test_what_would_do_does(self):
        base = ("plan", self.job(), "--profile", self.profile())
        err = self.refused(78, *base, "--machines", self.machines(2, memory=2e8))
        times = float(re.search(r"; .*?(\d+\.\d\d) times the memory on every machine \(.*\) would do", err)[1])
        self.must(*base, "--machines", self.machines(2, memory=times * 2e8))
        alone = float(re.search(r"or ([\d.]+) GB on slow-0 alone, or", err)[1]) * 1e9
        for bytes, code in (alone, 0), (0.95 * alone, 78):
            self.write("one.txt", self.read(self.machines(2, memory=2e8)).replace("200000000.0", str(bytes), 1))
            self.assertEqual(self.brigade(*base, "--machines", "one.txt")[0], code)

    def test_the_unit_that_needs_most_is_named(self):
        """What it needs at least, in four digits, is not less than that."""
        self.profile()
        self.write("profile.txt", self.read("profile.txt").replace("3e7", "3.33333e7").replace("3.33333e7", "4.44449e7", 3))
        self.write("one.txt", "profile 1\nmachine a memory 1.2e8\n")
        err = self.refused(78, "plan", self.job(), "--profile", "profile.txt", "--machines", "one.txt")
        least = float(re.search(r"unit 1 \(block\) needs .*: give a machine ([\d.]+) GB at least; ", err)[1]) * 1e9
        self.write("one.txt", f"profile 1\nmachine a memory {least}\n")
        err = self.refused(78, "plan", "job.yaml", "--profile", "profile.txt", "--machines", "one.txt")
        self.assertIn("no plan fits: ", err)

    def test_bad_input(self):
        base = ("plan", self.job())
        err = self.refused(65, *base, "--profile", self.profile(3), "--machines", self.machines(2))
        self.assertIn("5 units, but the job's model has 6 (4 layers, embedding, head)", err)
        self.write("bad.txt", "profile 1\nmachine a speed fast\n")
        self.assertIn("bad.txt: line 2", self.refused(65, *base, "--profile", self.profile(), "--machines", "bad.txt"))
        self.assertIn("no machine in it", self.refused(65, *base, "--profile", self.profile(), "--machines", "profile.txt"))
        self.write("still.txt", "profile 1\n" + "unit embed\n" * 6)
        self.assertIn("still.txt: no unit takes any time", self.refused(65, *base, "--profile", "still.txt"))
        for option in ("--profile", "--machines", "--prices"):
            err = self.refused(66, *base, "--profile", "profile.txt", "--machines", self.machines(2), option, "none.txt")
            self.assertIn(option + ": opening none.txt", err)
        for line in ("'fast 1': 1", "fast-*: 1e300", "fast-*: nan"):
            self.write("prices", "slow-*: 2\n" + line)
            self.assertIn("--prices: prices: line 2", self.refused(
                65, *base, "--profile", "profile.txt", "--machines", self.machines(2), "--prices", "prices"))
        self.write("prices", "fast-* 1\n")
        self.assertIn("prices: no price for machine slow-0", self.refused(
            78, *base, "--profile", "profile.txt", "--machines", self.machines(2), "--prices", "prices"))
        self.write("prices", "fast-* one\n")
        self.assertIn("prices: line 1", self.refused(
            65, *base, "--profile", self.profile(), "--machines", self.machines(2), "--prices", "prices"))
        self.assertIn("schedule", self.refused(78, *base, "--schedule", "sometimes"))
        self.assertIn("no option --svgs; did you mean --svg?", self.refused(64, *base, "--svgs", "x"))
        self.refused(78, *base, "--machines", "0")


if __name__ == "__main__":
    unittest.main()
