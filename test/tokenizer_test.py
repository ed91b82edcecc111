#!/usr/bin/python3
"""`brigade tokenizer` as a user meets it: train, encode, decode, what it refuses and with which exit code."""
import gzip
import json
import os
import shutil
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
TEXT = ("The line passes the work along and closes ranks when one falls out; "
        "the line passes the work along.\n\n\tÄpfel 1234 и 我想 🦙\n") * 20


def run(*args, stdin=b""):
    done = subprocess.run([BRIGADE, "tokenizer", *args], input=stdin, capture_output=True, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


class Tokenizer(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="brigade-tokenizer-")
        self.text = os.path.join(self.dir, "text")
        self.out = os.path.join(self.dir, "out")
        with open(self.text, "w", encoding="utf-8") as out:
            out.write(TEXT)
        code, said, err = run("train", self.text, "--vocab", "300", "--out", self.out, "--json")
        self.assertEqual(code, 0, err)
        self.trained = json.loads(said)

    def tearDown(self):
        shutil.rmtree(self.dir)

    def fails(self, code, word, *args, stdin=b""):
        got, _, err = run(*args, stdin=stdin)
        self.assertEqual(got, code, err)
        self.assertIn(word, err)

    def test_training_is_deterministic(self):
        self.assertEqual((self.trained["vocab"], self.trained["merges"]), (300, 43))
        again = os.path.join(self.dir, "again")
        code, said, _ = run("train", self.text, "--vocab", "300", "--out", again, "--json")
        self.assertEqual((code, json.loads(said)), (0, self.trained))
        with open(self.out + "/tokenizer.json", "rb") as a, open(again + "/tokenizer.json", "rb") as b:
            self.assertEqual(a.read(), b.read())

    def test_training_reads_a_corpus(self):
        corpus = os.path.join(self.dir, "corpus")
        os.mkdir(corpus)
        with gzip.open(corpus + "/a.jsonl.gz", "wt", encoding="utf-8") as out:
            out.write(json.dumps({"text": TEXT}) + "\n")
        code, said, err = run("train", corpus, "--vocab", "300", "--out", os.path.join(self.dir, "b"), "--json")
        self.assertEqual((code, json.loads(said)), (0, self.trained), err)

    def test_text_comes_back(self):
        for text in (TEXT.encode(), b"", bytes(range(256)) * 3, b"\xff\xc3 \xe2\x82"):
            for source in (self.out, self.out + "/tokenizer.json", "bytes"):
                code, ids, err = run("encode", source, stdin=text)
                self.assertEqual(code, 0, err)
                self.assertEqual(run("decode", source, stdin=ids)[:2], (0, text))
        ids = run("encode", "bytes", "--text", "Hi")[1].split()
        self.assertEqual(ids, [b"72", b"105"])
        self.assertEqual(run("decode", "bytes", "72", "105")[:2], (0, b"Hi"))

    def test_json_and_special_tokens(self):
        code, out, _ = run("encode", self.out, "--text", "the<|endoftext|>", "--json")
        result = json.loads(out)
        self.assertEqual((code, result["ids"][-1], result["pieces"][-1]), (0, 299, "<|endoftext|>"))
        self.assertEqual(result["count"], len(result["ids"]))
        plain = run("encode", self.out, "--text", "<|endoftext|>", "--plain")[1]
        self.assertGreater(len(plain.split()), 1)
        self.assertEqual(json.loads(run("decode", "bytes", "72", "--json")[1]), {"text": "H"})
        self.assertEqual(json.loads(run("decode", "bytes", "255", "--json")[1]), {"hex": "ff"})

    def test_what_is_refused(self):
        self.fails(64, "train, encode or decode")
        self.fails(64, "sing", "sing")
        self.fails(64, "--out", "train", self.text, "--vocab", "300")
        self.fails(66, "nowhere", "train", "nowhere", "--vocab", "300", "--out", self.out)
        empty = os.path.join(self.dir, "empty")
        open(empty, "w").close()
        self.fails(65, "no text", "train", empty, "--vocab", "300", "--out", self.out)
        self.fails(64, "--vocab", "train", self.text, "--out", self.out, "--vocab", "256")
        self.fails(66, "nowhere", "encode", os.path.join(self.dir, "nowhere"))
        self.fails(66, self.dir, "encode", self.dir)
        self.fails(65, "text", "encode", self.text)
        self.fails(65, "'256'", "decode", "bytes", "256")
        self.fails(65, "'x'", "decode", "bytes", stdin=b"1 x 2")
        bad = os.path.join(self.dir, "tokenizer.json")
        with open(bad, "w") as out:
            out.write('{"model": {"type": "WordPiece", "vocab": {}}}')
        self.fails(65, "WordPiece", "encode", bad)


if __name__ == "__main__":
    unittest.main()
