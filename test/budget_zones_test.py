#!/usr/bin/env python3
"""A job with a budget over zones: the policy says what to rent, the zones where; each has a trace and prices of its own.
Live: losses and weights are those of the undisturbed job, the log replays byte for byte, also when the controller was
killed, the bill goes by zone. Simulated: `brigade sim deadline --zone` says how far the job came, and what it cost.
"""
import json
import re
import shutil
import subprocess
import sys
import unittest

from scenarios import BRIGADE, Budgets

GAP = Budgets.GAP
WEST, EAST = [2, 2, 2, 0, 0, 2, 2, 2, 2, 0, 1, 0] * 20, [0, 2, 2, 2, 2, 0, 0, 2, 2, 2, 2, 0] * 20
LINE = re.compile(r"policy (\S+) decided (\S+) in (\S+) on zones (\d+) (.*) at (\S+) rent (\S+) (.*) spot ([\d ]+)$")


def fields(line):
    found = LINE.match(line.rstrip("\n"))
    words, zones = found[8].split(), found[5].split()
    numbers = {words[i]: float(words[i + 1]) for i in range(0, len(words), 2)}
    return dict(numbers, decided=found[2], zone=found[3], at=found[6], held=found[7], tick=len(found[9].split()) - 1,
                zones={zones[i]: (int(zones[i + 1]), float(zones[i + 2]), float(zones[i + 3]))
                       for i in range(0, len(zones), 4)})


class Zones(Budgets):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trace("west.json", WEST)
        cls.trace("east.json", EAST)
        cls.trace("prices.json", [0.9, 0.4, 1.2] * 200, 3 * GAP)

    def zones(self, west="0.97,3.06", east="0.8,3.2"):
        return [f"west={self.path('west.json')},{west}", f"east={self.path('east.json')},{east}"]

    def flat(self, zones):
        return "budget.zones=" + json.dumps(zones)

    def replay(self, name):
        """The log, which decides the same again; a letter changed is told."""
        text = self.read(name, "decisions.log")
        self.assertEqual(self.replayed(name), {"decisions": text.count("\n"), "same": True})
        other = re.sub(r" in (west|east) ", lambda m: f" in {'east' if m[1] == 'west' else 'west'} ", text, count=1)
        self.assertNotEqual(other, text)
        with open(self.path("changed"), "w") as log:
            log.write(other)
        done = subprocess.run([BRIGADE, "sim", "replay", self.path("changed")], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 65, done.stderr)
        return [fields(line) for line in text.splitlines()]

    def check_choices(self, log, machines):
        """Where it stands while that zone has spot; else the cheapest that has, of equal ones the first."""
        for now in log:
            kind = {"spot": 1, "on-demand": 2}.get(now["decided"])
            if kind is None:
                self.assertEqual(now["zone"], "-")
            elif now["held"] == now["decided"]:
                self.assertEqual(now["zone"], now["at"])
            else:
                there = {name: z for name, z in now["zones"].items() if kind == 2 or z[0] >= machines}
                self.assertEqual(now["zone"], min(there, key=lambda name: there[name][kind]))
            if now["held"] == "spot": # else it would be none
                self.assertGreaterEqual(now["zones"][now["at"]][0], machines)

    def check_bill(self, budget):
        zones, ticks = budget["zones"], budget["ticks"]
        for kind in ("spot", "on_demand"):
            self.assertEqual(sum(z[kind] for z in zones.values()), ticks[kind])
        self.assertAlmostEqual(sum(z["cost"] for z in zones.values()), budget["cost"])
        self.assertIn(sum(ticks.values()) - int(budget["finish_s"] // GAP), (1, 2)) # the first instant, the tick that runs

    def check_constant_prices(self, budget, prices, machines):
        for name, zone in budget["zones"].items():
            spot, on_demand = prices[name]
            self.assertAlmostEqual(zone["cost"], (zone["spot"] * spot + zone["on_demand"] * on_demand) * machines * GAP / 3600)

    def test_every_policy(self):
        for policy in ["on-demand", "spot", "greedy", "uniform-progress", "patient"]:
            with self.subTest(policy=policy):
                found = self.train(policy, 600, ["run.plan=1x2", f"budget.policy={policy}", self.flat(self.zones()),
                                                 "budget.deadline=4h", "budget.work=2h", "budget.overhead=5m",
                                                 "budget.time_scale=3000"])
                self.check_same(found, 600)
                log = self.replay(policy)
                self.check_choices(log, 2)
                self.check_bill(found["budget"])
                self.check_constant_prices(found["budget"], {"west": (0.97, 3.06), "east": (0.8, 3.2)}, 2)
                if policy == "on-demand":
                    self.assertEqual({now["zone"] for now in log}, {"west"})

    def test_a_controller_that_is_killed(self):
        steps, name = 3000, "killed"
        zones = [{"name": "west", "trace": self.path("west.json"), "spot_price": self.path("prices.json")},
                 {"name": "east", "trace": self.path("east.json"), "spot_price": 0.8, "on_demand_price": 3.2}]
        job = self.path("killed.yaml")
        with open(job, "w") as out: # JSON is YAML
            json.dump({"data": {"train": [self.path("corpus.txt")]}, "run": {"dir": self.path(name), "plan": "1x2"},
                       "budget": {"policy": "greedy", "deadline": 72000, "work": 36000, "overhead": 600,
                                  "time_scale": 3000, "on_demand_price": 3.06, "zones": zones}}, out)
        found = self.killed_twice(name, [BRIGADE, "train", job, *self.JOB, f"train.steps={steps}", *self.FLAGS], 800,
                                  "policy greedy decided spot in we")
        self.check_same(found, steps)
        told = self.replay(name)
        self.check_choices(told, 2)
        self.check_bill(found["budget"])
        ticks = [now["tick"] for now in told]
        self.assertEqual(ticks, sorted(set(ticks)))
        for now in told: # the price that was
            self.assertEqual(now["zones"]["west"][1:], ([0.9, 0.4, 1.2][now["tick"] // 3 % 3], 3.06))

    def simulate(self, name, zones, policy, deadline, measured, steps):
        log = self.path(f"{name}.log")
        given = [word for zone in zones for word in ("--zone", zone)]
        done = subprocess.run([BRIGADE, "sim", "deadline", *given, "--policy", policy, "--work", f"{measured['work_s']}s",
                               "--deadline", deadline, "--overhead", f"{measured['overhead_s']}s", "--window", "0", "--log", log,
                               "--svg", self.path("window.svg"), "--json"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        window = json.loads(done.stdout)["traces"][0]["windows"][0]
        with open(self.path("window.svg")) as picture:
            text = picture.read()
        for word in ("spot there", "held", ">west</text>", ">east</text>", "of west+east"):
            self.assertIn(word, text)
        if shutil.which("rsvg-convert"):
            subprocess.run(["rsvg-convert", "-o", self.path("window.png"), self.path("window.svg")], check=True)
        with open(log) as lines:
            told = [fields(line) for line in lines]
        self.assertEqual(subprocess.run([BRIGADE, "sim", "replay", log], capture_output=True, timeout=60).returncode, 0)
        return window, {now["tick"]: steps * now["done"] / now["work"] for now in told}

    def live_against_simulated(self, name, policy, seconds, scale):
        """By how much useful steps differ at the end of the one that ends first, as a part of all; a line about it."""
        steps, steady = self.steps_for(name, seconds, scale)
        zones, deadline = self.zones(), "30h"
        found = self.train(name, steps, ["run.plan=1x1", f"budget.policy={policy}", f"budget.deadline={deadline}",
                                         self.flat(zones), f"budget.work={steady['work_s'] * steps / 1500}",
                                         f"budget.overhead={steady['overhead_s']}", f"budget.time_scale={scale}"])
        self.check_same(found, steps)
        log = self.replay(name)
        self.check_choices(log, 1)
        self.check_bill(found["budget"])
        self.assertEqual({now["zone"] for now in log} - {"-"}, {"west", "east"}) # it moved
        live = {now["tick"]: steps * now["done"] / now["work"] for now in log}
        budget = found["budget"]
        window, simulated = self.simulate(name, zones, policy, deadline, budget["simulated"], steps)
        for zone, bill in budget["simulated"]["zones"].items(): # the simulator in the result is the simulator
            self.assertAlmostEqual(bill["cost"], window["zones"][zone]["cost"])
        end = max(t for t in live if t in simulated)
        apart = abs(live[end] - simulated[end]) / steps
        told = (f"{policy} over zones: {live[end]:.0f} useful steps at tick {end}, simulated {simulated[end]:.0f}, of {steps}; "
                f"${budget['cost']:.3f} after {budget['finish_s']:.0f} s, simulated ${window['cost']:.3f} after "
                f"{window['finish_s']:.0f} s")
        return apart, told

    def test_live_and_simulated(self):
        self.check_agreement(3, "greedy", 5, 2000)

    def test_misuse(self):
        good = {"policy": "greedy", "deadline": "10h", "work": "5h"}
        west, east = self.zones()
        self.trace("fast.json", [1] * 9, 60)
        self.trace("word.json", ["much"])
        cases = [({"zones": json.dumps([west, west])}, ["budget.zones", "zone west", "twice"]),
                 ({"zones": json.dumps(["west=" + self.path("none.json")])}, ["budget.zones: zone west", "none.json"]),
                 ({"zones": json.dumps([west, f"east={self.path('fast.json')}"])}, ["budget.zones: zone east", "60 s"]),
                 ({"zones": json.dumps([west + ",9"])}, ["budget.zones", "zone west", "two prices"]),
                 ({"zones": json.dumps(["west"])}, ["budget.zones", "NAME=TRACE"]),
                 ({"zones": json.dumps([f"west={self.path('west.json')},-2"])}, ["zone west", "spot price"]),
                 ({"zones": json.dumps([f"west={self.path('west.json')},{self.path('word.json')},3"])}, ["zone west", "data[0]"]),
                 ({"zones": json.dumps([f"west={self.path('west.json')}"])}, ["budget.zones: zone west", "no spot price"]),
                 ({"zones": json.dumps([f"west={self.path('west.json')},1"])}, ["budget.zones: zone west", "no on-demand price"]),
                 ({"zones": "[{name: west, trcae: x}]"}, ["budget.zones", "zone west", "trcae", "did you mean trace"]),
                 ({"zones": "[{name: west}]"}, ["zone west", "trace is missing"]),
                 ({"zones": "[{trace: x}]"}, ["name is missing"]),
                 ({"zones": "[{name: west, trace: x}, east=y]"}, ["budget.zones", "list"]),
                 ({"zones": "[{name: west, trace: [x]}]"}, ["budget.zones", "list"]),
                 ({"zones": "{name: west}"}, ["budget.zones", "a mapping"]),
                 ({"zones": "[]"}, ["budget.zones", "0 zones"]),
                 ({"zones": json.dumps([west, east]), "trace": self.path("west.json")}, ["budget.zones", "budget.trace"]),
                 ({"zones": json.dumps([west, east]), "trace_start": "240"}, ["budget.trace_start", "240 ticks"]),
                 ({"zones": json.dumps([west, east]), "policy": None, "fleet_policy": "parcae"}, ["budget.zones", "fleet"])]
        for change, words in cases:
            self.check_refused(dict(good, **change), words)
        job = ["--work", "5h", "--deadline", "10h"]
        for words, args in ((["--zone", "zone west", "price"], ["--zone", "west=" + self.path("west.json")]),
                            (["take one"], ["--zone", west, "--trace", self.path("west.json")]),
                            (["twice"], ["--zone", west, "--zone", west]), (["optimum"], ["--zone", west, "--policy=omniscient"]),
                            (["window"], ["--zone", west, "--deadline=99h"])):
            done = subprocess.run([BRIGADE, "sim", "deadline", *job, *args], capture_output=True, text=True, timeout=60)
            self.assertNotEqual(done.returncode, 0)
            for word in words:
                self.assertIn(word, done.stderr)


if __name__ == "__main__":
    sys.exit(unittest.main())
