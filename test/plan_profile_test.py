#!/usr/bin/python3
"""`brigade plan --profile` as a user meets it: a profile of this machine, the plan of a run walked with it, and what
errors name. How near predictions come is bench/truth's matter: times here are only plausible."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
TINY = ["model.family=gpt2", "model.layers=3", "model.dim=32", "model.heads=2", "model.ffn=64", "model.context=32",
        "train.micro_batch=1", "train.micro_batches=4", "data.tokenizer=bytes"]


class Profile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="brigade-profile-")
        cls.text = cls.file("corpus.txt", "the quick brown fox jumps over the lazy dog\n" * 400)
        cls.profile = os.path.join(cls.dir, "here.txt")
        done = cls.call("plan", "--profile", *TINY, "--seconds", "0.5", "--workers", "3", "--threads", "1", "--out",
                        cls.profile)
        assert done.returncode == 0, done.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    @classmethod
    def file(cls, name, text):
        path = os.path.join(cls.dir, name)
        with open(path, "w") as out:
            out.write(text)
        return path

    @classmethod
    def call(cls, *words):
        env = dict(os.environ, TMPDIR=cls.dir)
        return subprocess.run([BRIGADE, *words], capture_output=True, text=True, timeout=120, env=env)

    def json(self, *words):
        done = self.call(*words, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def fails(self, code, text, *words):
        done = self.call(*words)
        self.assertEqual((done.returncode, done.stdout), (code, ""), done.stderr)
        self.assertIn(text, done.stderr)

    def test_a_profile_has_all_that_a_job_has(self):
        with open(self.profile) as file:
            lines = [line.split() for line in file]
        self.assertEqual([line[:2] for line in lines[:6]], [["profile", "1"], ["unit", "embed"], ["unit", "block"],
                                                            ["unit", "block"], ["unit", "block"], ["unit", "head"]])
        self.assertEqual([line[1] for line in lines if line[0] == "machine"], ["local0", "local1", "local2"])
        block = dict(zip(lines[2][2::2], map(float, lines[2][3::2])))
        self.assertEqual(block["parameter_bytes"], 4 * (4 * 32 * 32 + 2 * 32 * 64 + 4 * 32 + 64 + 32 + 4 * 32))
        self.assertEqual(block["cut_bytes"], 32 * 32 * 4)
        for key in ("forward_s", "input_s", "weight_s"):
            self.assertTrue(1e-7 < block[key] < 1, block)
        self.assertFalse([name for name in os.listdir(self.dir) if name.startswith("brigade-measure")])

    def test_json_holds_the_text(self):
        result = self.json("plan", "--profile", self.text, *TINY, "--seconds", "0.3", "--group", "2")
        self.assertTrue(result["profile"].startswith("profile 1\n"))
        self.assertEqual([unit["kind"] for unit in result["units"]], ["embed", "block", "block", "block", "head"])
        self.assertTrue(0 < result["seconds"] < 60)

    def test_a_run_s_plan_is_walked(self):
        run = os.path.join(self.dir, "run")
        done = self.call("train", self.text, f"run.dir={run}", *TINY, "train.steps=2", "train.eval_every=0",
                         "run.workers=2", "run.plan=2x1", "run.shadow=false", "run.threads=1", "run.group=1", "--quiet")
        self.assertEqual(done.returncode, 0, done.stderr)
        plan = os.path.join(run, "plan.txt")
        t = self.json("plan", "--profile", self.profile, "--plan", plan)
        self.assertEqual(len(t["workers"]), 2)
        self.assertTrue(0 < t["compute_s"] <= t["step_s"] < 10)
        for worker in t["workers"]:
            self.assertTrue(0 < worker["busy_s"] <= t["compute_s"])
            self.assertTrue(worker["peak_bytes"] > 1e5)
        self.assertEqual(sum(w["sent_bytes"] for w in t["workers"]), sum(w["received_bytes"] for w in t["workers"]))
        # Four activations go down, four gradients come back; the tied table's two halves cross.
        self.assertTrue(t["workers"][0]["sent_bytes"] >= 4 * 32 * 32 * 4)
        table = self.call("plan", "--profile", self.profile, "--plan", plan)
        self.assertIn("worker 1", table.stdout)
        # Twice as fast machines take half the time of what is computed.
        with open(self.profile) as file:
            text = file.read().replace(" speed 1 ", " speed 2 ")
        fast = self.json("plan", "--profile", self.file("fast.txt", text), "--plan", plan)
        self.assertAlmostEqual(fast["workers"][0]["busy_s"], t["workers"][0]["busy_s"] / 2, delta=1e-6 + t["step_s"] / 20)

    def test_errors_name_file_line_and_what_was_expected(self):
        plan = self.file("plan.txt", "plan 1 units 2 micro_batches 1 workers 1\nstage 0 0 2\nitem 0 0 1\nseat 0 0 0\n"
                                     "mbmap 0 0 0\nlist 0: 0F0 0BW0.l 0COLL.reduce STEP\n")
        self.fails(78, "the plan has 2 units, the profile 5", "plan", "--profile", self.profile, "--plan", plan)
        bad = self.file("bad.txt", "profile 1\nunit block forward_s fast\n")
        self.fails(65, "bad.txt: line 2: found \"fast\", expected a number", "plan", "--profile", bad, "--plan", plan)
        self.fails(66, "absent.txt", "plan", "--profile", "absent.txt", "--plan", plan)
        self.fails(66, "absent.txt", "plan", "--profile", self.profile, "--plan", "absent.txt")
        self.fails(64, "one profile", "plan", "--profile", "--plan", plan)
        self.fails(78, "model.dim", "plan", "--profile", "model.dim=0")


if __name__ == "__main__":
    unittest.main()
