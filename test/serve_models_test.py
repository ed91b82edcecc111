#!/usr/bin/python3
"""Models other than stories260K: odd shapes (odd_models.py) in every type that is read, against numpy; then the same
answers in every way to serve, with options at their ends, gone on after every token. BRIGADE_CHECK_FULL=1: every shape
in every type and way. Skipped where numpy is missing."""
import concurrent.futures
import json
import os
import random
import sys
import unittest

import serving
from serving import FULL, Server

try:
    import numpy as np
    import odd_models
except ImportError as missing:
    print(f"skipped: {missing} (Debian: apt install python3-numpy)")
    sys.exit(77)

WAYS = {
    "neighbours": ["--slots", "16"],
    "a token at a time, in little room": ["--chunk", "1", "--slots", "5", "--kv-bytes", "1", "--host-cache", "65536"],
    "the slow kernels": ["--slots", "7", "--chunk", "13", "ref"],
    "looked up": ["--slots", "4", "--speculate", "ngram", "--draft-max", "15"],
    "guessed in trees": ["--slots", "3", "--speculate", "tree", "--draft-tree", "2,2,1", "--kv-bytes", "1"],
}


def requests(c, count):
    """Options at their ends, alone and together."""
    rng, vocab, context = random.Random(count), c["vocab"], c["context"]
    shared = [rng.randrange(vocab) for _ in range(context)]
    options = [
        (1.0, {"temperature": [0, 0, 1, 0.8, 2, 100, 1e-5, 1e-44, 1e-300]}),
        (1.0, {"seed": [0, -1, 2**63 - 1, -2**63, 2**53 + 1]}), (1.0, {"max_tokens": [1, 2, 20, 1000]}),
        (0.3, {"top_k": [0, -1, 1, 2, vocab, vocab + 1, 2**32 - 1]}), (0.3, {"top_p": [0, 1, 0.5, 1e-9, 0.999999999]}),
        (0.3, {"min_p": [0, 1, 0.1, 1e-30]}), (0.3, {"repeat_penalty": [0.01, 1.1, 100], "repeat_last_n": [0, 1, 1 << 20]}),
        (0.3, {"presence_penalty": [-2, 2], "frequency_penalty": [-2, 0.3]}), (0.3, {"logprobs": [0, 1, 20]}), (0.2, {"n": [2, 3]}),
        (0.3, {"logit_bias": [{str(rng.randrange(vocab)): b for b in (-100, 100, 0.5)}]}),
        (0.4, {"stop": [["a"], ["th", "e"], ["ab", "abc", "b"], ["é", "\ufffd"], [" "]]}),
        (0.3, {"cache_prompt": [False], "priority": [-1, 1]}), (0.6, {"ignore_eos": [True]}), (0.2, {"grammar": ['root ::= [a-z]+ "." [0-9]*']}),
    ]
    found = []
    for _ in range(count):
        size = min(context - 1, rng.choice([1, 15, 16, 17, 33, context - 2, context - 1]))
        ask = {"return_tokens": True, "prompt": shared[:size] if rng.random() < 0.5 else [rng.randrange(vocab) for _ in range(size)]}
        for chance, some in options:
            if rng.random() < chance:
                ask.update({key: rng.choice(values) for key, values in some.items()})
        ask["echo"] = "logprobs" not in ask and rng.random() < 0.3
        found.append(ask)
    return found


def whole(server, ask):
    """(text, tokens, finish_reason, log probabilities) of every choice, and the tokens that are counted."""
    status, answer = server.post("/v1/completions", ask, timeout=240)
    assert status == 200, (answer, ask)
    said = [(c["text"], c["tokens"], c["finish_reason"], (c["logprobs"] or {}).get("token_logprobs") or []) for c in answer["choices"]]
    return said, answer["usage"]["completion_tokens"]


def streamed(server, ask):
    """The same, joined."""
    status, _, data = server.ask("POST", "/v1/completions", {**ask, "stream": True, "stream_options": {"include_usage": True}}, timeout=240)
    assert status == 200, (data, ask)
    *chunks, last = serving.events(data.splitlines())
    found = {}
    for c in (chunk["choices"][0] for chunk in chunks):
        text, tokens, finish, logprobs = found.get(c["index"], ("", [], None, []))
        assert finish is None, ask
        found[c["index"]] = (text + c["text"], tokens + c.get("tokens", []), c["finish_reason"],
                             logprobs + (c["logprobs"] or {"token_logprobs": []})["token_logprobs"])
    return [found[i] for i in sorted(found)], last["usage"]["completion_tokens"]


class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = serving.scratch("models")
        cls.addClassCleanup(serving.remove, cls.directory)
        cls.weights = {}
        for seed, (name, c) in enumerate(odd_models.SHAPES.items()):
            w = odd_models.weights(c, seed)
            cls.weights[name] = w, odd_models.write_directory(c, w, cls.path(name))

    @classmethod
    def path(cls, name):
        return os.path.join(cls.directory, name)

    def serve(self, model, name, *args):
        env = {"BRIGADE_ISA": "ref"} if "ref" in args else None
        draft = ["--draft", self.path(name)] if "tree" in args else []
        server = Server(model, "--tokenizer", self.path(name), "--threads", "2", *(a for a in args if a != "ref"), *draft, env=env)
        self.addCleanup(server.stop)
        return server

    def compare(self, server, c, w):
        """Greedy answers and embeddings to prompts of random tokens, up to the whole context."""
        rng = np.random.default_rng(1)
        for size in {1, 17, c["context"] - 1}:
            size = min(size, c["context"] - 1)
            prompt = rng.integers(0, c["vocab"], size).tolist()
            status, answer = server.post("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 12, "logprobs": 1,
                                                             "return_tokens": True, "ignore_eos": True})
            self.assertEqual(status, 200, answer)
            choice = answer["choices"][0]
            tokens, room = choice["tokens"], c["context"] + 1 - size  # the last one drawn need not be fed
            self.assertEqual((len(tokens), choice["finish_reason"]), (min(12, room), "length"))
            wanted = odd_models.says(c, w, prompt + tokens[:-1])[0][size - 1:]
            for row, token, logprob in zip(wanted, tokens, choice["logprobs"]["token_logprobs"]):
                self.assertLess(row.max() - row[token], 1e-4)
                self.assertLess(abs(row[token] - logprob), 1e-4)
            status, answer = server.post("/v1/embeddings", {"input": prompt})
            self.assertLess(np.abs(odd_models.says(c, w, prompt)[1] - answer["data"][0]["embedding"]).max(), 1e-4)

    def test_numbers(self):
        types = list(odd_models.TYPES)
        for i, (name, c) in enumerate(odd_models.SHAPES.items()):
            w, said = self.weights[name]
            with self.subTest(name):
                server = self.serve(self.path(name), name)
                self.compare(server, c, said)
                server.ends_well()
            for kind in types if FULL else [types[i % 3], types[3 + i % 2]]:
                with self.subTest(f"{name}, {kind} in GGUF"):
                    path = self.path(f"{name}-{kind}.gguf")
                    said = odd_models.write_gguf(c, w, kind, path)
                    server = self.serve(path, name)
                    self.compare(server, c, said)
                    server.ends_well()

    def test_same_everywhere(self):
        for name in odd_models.SHAPES if FULL else ("odd", "gpt2", "shards"):
            for kind in ("auto", "int8") if FULL or name == "odd" else ("auto",):
                asks = requests(odd_models.SHAPES[name], 80 if FULL else 30)
                server = self.serve(self.path(name), name, "--slots", "1", "--weights", kind)
                alone = [whole(server, {**ask, "cache_prompt": False}) for ask in asks]
                server.ends_well()
                for way, args in WAYS.items():
                    with self.subTest(f"{name}, {kind}: {way}"):
                        server = self.serve(self.path(name), name, "--weights", kind, *args)
                        self.same(server, asks, alone)
                        server.ends_well()

    def same(self, server, asks, alone):
        order = random.Random(3).sample(range(len(asks)), len(asks))
        with concurrent.futures.ThreadPoolExecutor(16) as crowd:
            for i, found in zip(order, crowd.map(lambda i: (streamed if i % 3 == 0 else whole)(server, asks[i]), order)):
                self.assertEqual(found, alone[i], json.dumps(asks[i]))
            rest = [(i, k) for i in order[:12] if "n" not in asks[i] and not asks[i]["echo"] for k in range(len(alone[i][0][0][1]) + 1)]
            going_on = lambda at: whole(server, {**asks[at[0]], "resume_tokens": alone[at[0]][0][0][1][:at[1]]})
            for (i, k), ([(text, tokens, finish, _)], count) in zip(rest, crowd.map(going_on, rest)):
                (all_text, all_tokens, all_finish, _), = alone[i][0]
                self.assertEqual((tokens, finish, count), (all_tokens[k:], all_finish, len(all_tokens)), (k, asks[i]))
                self.assertTrue(all_text.endswith(text))


if __name__ == "__main__":
    unittest.main()
