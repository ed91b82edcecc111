#!/usr/bin/env python3
"""The engine behind `brigade serve` as a process: it dies where it hangs, prompts outlive it on disk, trees of guesses do not show."""
import os
import shutil
import unittest

import serving

PROMPT = "the 12 little bears ate 144 honey cakes and 19 pears.\nthe 13 little bears ate"


class EngineTest(unittest.TestCase):
    def start(self, *args, **more):
        server = serving.Server(serving.small_model(), *args, **more)
        self.addCleanup(server.stop, 9)
        return server

    def test_a_dead_engine_ends_the_process(self):
        server = self.start("--watchdog", "3", env={"BRIGADE_FAULT": "serve:serve-batch:3:HANG"})
        server.text(PROMPT, max_tokens=1)
        connection = server.connect()
        connection.request("POST", "/v1/completions", '{"prompt": "x", "max_tokens": 100, "ignore_eos": true}')
        self.assertEqual(server.process.wait(30), 70)
        self.assertRegex(server.said(), r"the engine has not stepped for \d+\.\d s \(computing a batch\): giving up")
        connection.close()

    def test_prompts_outlive_the_process(self):
        directory = serving.scratch("disk")
        self.addCleanup(shutil.rmtree, directory, True)
        answers, cached = [], []
        for turn in range(3):
            server = self.start("--disk-cache", directory, "--disk-cache-bytes", "1000000")
            status, answer = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 20, "seed": 1})
            self.assertEqual(status, 200)
            answers.append(answer["choices"][0]["text"])
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            self.assertEqual(server.stop(), 0)
            for name in os.listdir(directory) if turn == 1 else []:
                with open(os.path.join(directory, name), "r+b") as file:
                    file.seek(1000)
                    file.write(b"damaged")
        self.assertEqual(len(set(answers)), 1)
        self.assertEqual(cached[0], 0)
        self.assertGreater(cached[1], 0)
        self.assertEqual(cached[2], 0)

    def test_trees_of_guesses_do_not_show(self):
        asked = [dict(max_tokens=40, temperature=t, seed=3, ignore_eos=True) for t in (0, 0.8)]
        plain, tree = self.start(), self.start("--speculate", "tree", "--draft", serving.small_model())
        self.assertEqual([plain.text(PROMPT, **a) for a in asked], [tree.text(PROMPT, **a) for a in asked])
        values = tree.metrics()
        self.assertGreater(values["brigade_accepted_tokens_total"], 40)
        self.assertGreater(values["brigade_speculated_tokens_total"], values["brigade_accepted_tokens_total"])


if __name__ == "__main__":
    unittest.main()
