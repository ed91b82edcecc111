#!/usr/bin/env python3
"""A job with a budget: a policy rents its machines live, a trace takes spot ones away, and nothing of it shows in the
bits. What it decided is decided again, byte for byte, also when the controller was killed; and the simulator says how
far the job came.

BRIGADE_CHECK_FULL=1 adds a long run on a real trace.
"""
import json
import os
import re
import subprocess
import sys
import unittest

from builds import is_release
from scenarios import BRIGADE, Budgets

SHARED = os.environ.get("BRIGADE_SHARED", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared"))
SPOT = os.path.join(SHARED, "data", "traces", "spot")
GAP = Budgets.GAP
PRICES = ["budget.spot_price=0.9731", "budget.on_demand_price=3.06"]


def fields(line):
    """Of a line of decisions.log: what the sentence says, and the numbers with their names."""
    found = re.match(r"policy (\S+) decided (\S+) on rent (\S+) (.*) spot ([\d ]+)$", line)
    words = found[4].split()
    numbers = {words[i]: float(words[i + 1]) for i in range(0, len(words), 2)}
    spot = [int(n) for n in found[5].split()]
    return dict(numbers, policy=found[1], decided=found[2], held=found[3], spot=spot, tick=len(spot) - 1)


def decisions(path):
    with open(path) as lines:
        return [fields(line.rstrip("\n")) for line in lines]


class Budget(Budgets):
    def replay(self, name):
        self.assertTrue(self.replayed(name)["same"])
        return decisions(self.path(f"{name}/decisions.log"))

    def check_bill(self, budget, log, counts, machines=1):
        """The bill once more, tick by tick, from the log of decisions and the trace."""
        told = budget["ticks"]
        end = sum(told.values()) - 1 # the first instant counts as a tick
        self.assertIn(end - int(budget["finish_s"] // GAP), (0, 1)) # the tick that runs
        paid = ["none"] * (1 + log[0]["tick"])
        for now, later in zip(log, log[1:] + [None]):
            there = True
            for tick in range(now["tick"], later["tick"] if later else end):
                if now["decided"] == "spot" and tick > now["tick"]:
                    there = there and counts[min(tick, len(counts) - 1)] >= machines
                paid.append(now["decided"] if there else "none")
            if later and later["held"] != now["decided"]: # taken away, or the controller was gone, and who waited for it
                taken = now["decided"] == "spot" and later["spot"][-1] < machines
                for tick in range(now["tick"] + 1, later["tick"] if there and not taken else 0):
                    paid[1 + tick] = "none"
        self.assertEqual({kind: paid.count(kind.replace("_", "-").replace("idle", "none")) for kind in told}, told)
        self.assertAlmostEqual(budget["cost"], (told["spot"] * 0.9731 + told["on_demand"] * 3.06) * machines * GAP / 3600)

    def test_every_policy(self):
        counts = [2, 2, 0, 2, 1, 1, 2, 3, 2, 0, 2, 2]
        trace = self.trace("short.json", counts)
        listed = subprocess.run([BRIGADE, "sim", "deadline", "--help"], capture_output=True, text=True).stdout
        for policy in ["on-demand", "spot", "greedy", "uniform-progress", "time-sliced", "patient"]:
            with self.subTest(policy=policy):
                self.assertIn(policy, listed)
                found = self.train(policy, 400, ["run.plan=1x2", f"budget.policy={policy}", f"budget.trace={trace}",
                                                 "budget.deadline=2h", "budget.work=1h", "budget.overhead=5m",
                                                 "budget.time_scale=3000", *PRICES])
                self.check_same(found, 400)
                log = self.replay(policy)
                self.assertEqual([now["tick"] for now in log], sorted({now["tick"] for now in log}))
                self.check_bill(found["budget"], log, counts, 2)
                if policy == "on-demand":
                    self.assertEqual({now["decided"] for now in log}, {"on-demand"})
                    self.assertEqual(found["deaths"], 0)

    def test_a_controller_that_is_killed(self):
        steps, name = 3000, "killed"
        counts = [2, 2, 2, 0, 2, 2, 1, 0, 3, 2, 2, 2, 0, 2, 2]
        trace = self.trace("killing.json", counts)
        keys = ["run.plan=1x2", "budget.policy=greedy", f"budget.trace={trace}", "budget.deadline=20h", "budget.work=10h",
                "budget.overhead=10m", "budget.time_scale=3000", *PRICES]
        found = self.killed_twice(name, self.command(name, f"train.steps={steps}", *keys), 600, "policy greedy decided sp",
                                  2.5 * GAP / 3000) # ticks that nobody sees
        self.check_same(found, steps)
        told = self.replay(name)
        ticks = [now["tick"] for now in told]
        self.assertEqual(ticks, sorted(set(ticks)))
        self.assertGreater(len(told), 6)
        self.check_bill(found["budget"], told, counts, 2)

    def test_machines_die_as_well(self):
        trace = self.trace("deaths.json", [2, 2, 2, 0, 2, 2])
        done = subprocess.run([BRIGADE, "chaos", self.path("corpus.txt"), "run.dir=" + self.path("deaths"), *self.JOB,
                               "train.steps=1500", "run.plan=1x2", "budget.policy=patient", f"budget.trace={trace}",
                               "budget.deadline=10h", "budget.overhead=10m", "budget.work=5h", "budget.time_scale=3000",
                               "--seed", "3", "--kills", "6", "--every", "100", "--json"], capture_output=True, text=True,
                              timeout=200)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue(json.loads(done.stdout)["curve_identical"])
        self.replay("deaths")

    def simulate(self, name, trace, keys, steps, measured, start):
        """Useful steps at each tick, as `sim deadline` has them for the work and the overhead that were measured."""
        starts, log = self.path(f"{name}.starts"), self.path(f"{name}.log")
        with open(starts, "w") as out:
            out.write(f"{start}\n")
        given = dict(key[len("budget."):].split("=") for key in keys)
        done = subprocess.run([BRIGADE, "sim", "deadline", "--trace", trace, "--policy", given["policy"], "--work",
                               f"{measured['work_s']}s", "--deadline", given["deadline"], "--overhead",
                               f"{measured['overhead_s']}s", "--spot-price", "0.9731", "--on-demand-price", "3.06",
                               "--starts", starts, "--window", "0", "--log", log, "--json"], capture_output=True, text=True,
                              timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        window = json.loads(done.stdout)["traces"][0]["windows"][0]
        return window, {now["tick"]: steps * now["done"] / now["work"] for now in decisions(log)}

    def fleet(self, name, steps, keys, counts=(3, 3, 2, 2, 3, 4, 2, 1, 3, 0, 2, 4, 4, 1, 3, 2)):
        trace = self.trace(f"{name}.json", list(counts) * 20)
        found = self.train(name, steps, ["run.plan=1x4", f"budget.trace={trace}", "budget.overhead=20s", "budget.spot_price=1",
                                         "budget.time_scale=2000", *keys])
        self.check_same(found, steps)
        with open(self.path(f"{name}/decisions.log")) as lines:
            log = [re.match(r"fleet (\S+) decided (\d+)x(\d+)\+0 on .* machines ([\d ]+)$", line) for line in lines]
        self.assertEqual(len(log), self.replayed(name)["decisions"])
        shapes = [(int(line[3]), int(line[2])) for line in log]
        there = [int(line[4].split()[-1]) for line in log]
        for (stages, replicas), machines in zip(shapes, there):
            self.assertLessEqual(stages * replicas, machines)
        budget = found["budget"]
        self.assertAlmostEqual(budget["cost"], budget["machine_ticks"] * GAP / 3600)
        ran = {e["shape"] for e in self.events(name) if e["event"] == "generation"}
        self.simulated = budget.get("simulated")
        return shapes, ran

    def test_shapes(self):
        shapes, ran = self.fleet("parcae", 4000, ["budget.fleet_policy=parcae"])
        self.assertGreater(len(set(shapes)), 2)
        self.assertIn("1x2", ran)

    def test_shapes_of_machines_that_are_too_small(self):
        """Three stages at least: where fewer machines are there, nothing runs, and the shadow keeps the state."""
        shapes, ran = self.fleet("stages", 3000, ["budget.fleet_policy=throughput-optimal", "run.memory_gb=0.00013"])
        self.assertEqual(set(shapes), {(3, 1), (0, 0)})
        self.assertIn("3x1", ran)

    @unittest.skipUnless(is_release(), "times of a sanitized build")
    def test_shapes_live_and_simulated(self):
        """As for deadline policies: after the same ticks, with shapes as fast as measured; here decisions are compared as
        well, for the simulator makes its own."""
        counts = [3] * 4 + [2] * 4 + [4] * 4 + [1] * 3 + [3] * 3 + [0] * 2 + [2] * 4
        for policy in ["parcae", "throughput-optimal"]:
            for attempt in range(3): # a loaded machine is not as fast in the one minute as in the next
                self.fleet(f"{policy}-{attempt}", 6000, [f"budget.fleet_policy={policy}"], counts)
                found = self.simulated or {"live_steps": 0, "tick": 0, "steps": 6000, "same_decisions": 0, "decisions": 1}
                print(f"{policy}: {found['live_steps']} useful steps at tick {found['tick']}, simulated {found['steps']:.0f}, "
                      f"of 6000; {found['same_decisions']} of {found['decisions']} decisions the same", flush=True)
                if (abs(found["steps"] - found["live_steps"]) <= 600
                        and found["same_decisions"] >= 0.9 * found["decisions"]):
                    break
            else:
                self.fail(f"{policy}: {found}")

    def test_a_changed_log_is_told(self):
        self.trace("changed.json", [1])
        self.train("changed", 200, ["run.plan=1x1", "budget.policy=on-demand", "budget.deadline=10h", "budget.work=1h",
                                    "budget.time_scale=6000"])
        path = self.path("changed/decisions.log")
        with open(path) as log:
            text = log.read()
        for old, new, code in [("decided on-demand", "decided spot", 65), (" done 0 ", " done 0.0 ", 65), ("policy", "polcy", 65)]:
            with open(path, "w") as log:
                log.write(text.replace(old, new, 1))
            done = subprocess.run([BRIGADE, "sim", "replay", path], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn("decisions.log:1", done.stderr)

    def live_against_simulated(self, name, policy, trace, seconds, scale, start=0, deadline="20h"):
        """By how much useful steps differ at the end of the one that ends first, as a part of all; a line about it."""
        steps, steady = self.steps_for(name, seconds, scale)
        work = steady["work_s"] * steps / 1500
        keys = [f"budget.policy={policy}", f"budget.deadline={deadline}"]
        found = self.train(name, steps, ["run.plan=1x1", *keys, f"budget.trace={trace}", f"budget.trace_start={start}",
                                         f"budget.work={work}", f"budget.overhead={steady['overhead_s']}",
                                         f"budget.time_scale={scale}", *PRICES], timeout=600)
        self.check_same(found, steps)
        live = {now["tick"]: steps * now["done"] / now["work"] for now in self.replay(name)}
        budget = found["budget"]
        window, simulated = self.simulate(name, trace, keys, steps, budget["simulated"], start)
        end = max(t for t in live if t in simulated)
        apart = abs(live[end] - simulated[end]) / steps
        told = (f"{policy} on {os.path.basename(trace)}: {live[end]:.0f} useful steps at tick {end}, simulated "
                f"{simulated[end]:.0f}, of {steps}; ${budget['cost']:.3f} after {budget['finish_s']:.0f} s, simulated "
                f"${window['cost']:.3f} after {window['finish_s']:.0f} s")
        return apart, told

    @unittest.skipUnless(is_release(), "times of a sanitized build")
    def test_live_and_simulated(self):
        counts = [1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1] * 20
        self.check_agreement(2, "greedy", self.trace("agree.json", counts), 5, 2000)

    def test_a_real_trace(self):
        trace = os.path.join(SPOT, "aws-10-26-2022-us-west-2a_v100_1.json")
        if not os.path.isfile(trace):
            self.skipTest(f"{trace} is not here")
        if not os.environ.get("BRIGADE_CHECK_FULL"):
            self.skipTest("BRIGADE_CHECK_FULL=1 replays it")
        for policy in ["greedy", "patient", "uniform-progress"]:
            self.check_agreement(2, policy, trace, 20, 1500, start=100)

    def test_misuse(self):
        good = {"policy": "greedy", "deadline": "10h", "work": "5h"}
        trace = self.trace("one.json", [1])
        cases = [({"policy": "gredy"}, "did you mean greedy"), ({"policy": "next-spot"}, "what is to come"),
                 ({"deadline": None}, "budget.deadline is missing"), ({"deadline": "soon"}, "budget.deadline: expected a time"),
                 ({"work": "11h"}, "budget.deadline"), ({"gap": "0"}, "budget.gap"), ({"time_scale": "0"}, "budget.time_scale"),
                 ({"trace": self.path("nothing.json")}, "nothing.json"), ({"trace": self.path("corpus.txt")}, "corpus.txt"),
                 ({"trace": trace, "trace_start": "1"}, "budget.trace_start"), ({"polcy": "greedy"}, "budget.policy"),
                 ({"fleet_policy": "parcae"}, "one of the two"), ({"policy": None, "fleet_policy": "varuna"}, "sim fleet"),
                 ({"policy": None, "fleet_policy": "parca"}, "did you mean parcae")]
        for change, words in cases:
            self.check_refused(dict(good, **change), [words])


if __name__ == "__main__":
    sys.exit(unittest.main())
