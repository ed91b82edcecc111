#!/usr/bin/python3
"""Files of models against readers and writers that share no code with brigade's.

Tiny random models are written here byte by byte as Hugging Face, GGUF and llama2.c lay them out; the command converts
them; what it wrote is read back here and compared bit for bit with the definitions of those formats. Standard
library only; needs no data from elsewhere.
"""
import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
LAYERS, DIM, HEADS, KV, FFN, CONTEXT, VOCAB = 2, 32, 4, 2, 64, 8, 20  # rows are whole blocks of 32
HEAD = DIM // HEADS


def run(*args):
    done = subprocess.run([BRIGADE, *args], capture_output=True, timeout=60)
    return done.returncode, done.stderr.decode(errors="replace")


class Tensor:
    """A shape and its numbers, row by row, as the 4 bytes of fp32 each."""

    def __init__(self, shape, cells):
        self.shape, self.cells = tuple(shape), list(cells)

    @staticmethod
    def random(*shape):
        count = 1
        for extent in shape:
            count *= extent
        # Short mantissas: exact in BF16 and F16 too.
        return Tensor(shape, [struct.pack("<f", random.randint(-64, 64) / 64) for _ in range(count)])

    def transposed(self):
        rows, columns = self.shape
        return Tensor((columns, rows), [self.cells[r * columns + c] for c in range(columns) for r in range(rows)])

    def interleaved(self, heads):
        """Rows of each head from (half, pair) to (pair, half): reshape(heads, 2, n/2, columns).swapaxes(1, 2)."""
        columns = self.shape[1] if len(self.shape) == 2 else 1
        rows = [self.cells[i * columns:(i + 1) * columns] for i in range(self.shape[0])]
        half = self.shape[0] // heads // 2
        order = [(h * 2 + side) * half + pair for h in range(heads) for pair in range(half) for side in range(2)]
        return Tensor(self.shape, [cell for i in order for cell in rows[i]])

    def __eq__(self, other):
        return self.shape == other.shape and self.cells == other.cells


NARROW = {"F32": lambda c: c, "BF16": lambda c: c[2:], "F16": lambda c: struct.pack("<e", struct.unpack("<f", c)[0]),
          "F64": lambda c: struct.pack("<d", struct.unpack("<f", c)[0])}


def write_safetensors(path, tensors, dtype="F32"):
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = b"".join(map(NARROW[dtype], tensor.cells))
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def cells_of(raw):
    return [raw[i:i + 4] for i in range(0, len(raw), 4)]


def read_safetensors(path):
    raw = pathlib.Path(path).read_bytes()
    size, = struct.unpack_from("<Q", raw)
    header, data = json.loads(raw[8:8 + size]), raw[8 + size:]
    assert header.pop("__metadata__")["format"] == "pt" and (8 + size) % 8 == 0
    tensors, at = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        assert entry["dtype"] == "F32" and begin == at
        tensors[name], at = Tensor(entry["shape"], cells_of(data[begin:end])), end
    assert at == len(data) and list(tensors) == sorted(tensors, key=str.encode)
    return tensors


SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Gguf:
    def __init__(self, path):
        self.raw, self.at = pathlib.Path(path).read_bytes(), 4
        assert self.raw[:4] == b"GGUF"
        assert self.take("I") == 3
        tensors, keys = self.take("Q"), self.take("Q")
        self.keys = {}
        for _ in range(keys):
            key = self.text().decode()
            self.keys[key] = self.value(self.take("I"))
        infos = []
        for _ in range(tensors):
            name, rank = self.text().decode(), self.take("I")
            shape = [self.take("Q") for _ in range(rank)][::-1]
            assert self.take("I") == 0
            infos.append((name, shape, self.take("Q")))
        start = (self.at + 31) // 32 * 32
        self.tensors = {}
        for name, shape, offset in infos:
            count = 1
            for extent in shape:
                count *= extent
            assert offset % 32 == 0
            self.tensors[name] = Tensor(shape, cells_of(self.raw[start + offset:start + offset + 4 * count]))

    def take(self, code):
        value, = struct.unpack_from("<" + code, self.raw, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self):
        size = self.take("Q")
        self.at += size
        return self.raw[self.at - size:self.at]

    def value(self, kind):
        if kind == 8:
            return self.text().decode()
        if kind == 9:
            element, count = self.take("I"), self.take("Q")
            return [self.value(element) for _ in range(count)]
        return self.take(SCALARS[kind])


def q8_0(cells):
    """Blocks of a scale, here always 1/64, and 32 bytes."""
    out = b""
    for i in range(0, len(cells), 32):
        out += struct.pack("<e", 1 / 64) + struct.pack("<32b", *(round(struct.unpack("<f", c)[0] * 64) for c in cells[i:i + 32]))
    return out


def write_gguf(path, keys, tensors, kind):
    """Matrices as `kind` (F16, BF16 or Q8_0), vectors as F32; tensors in any order."""
    code = {"F32": 0, "F16": 1, "Q8_0": 8, "BF16": 30}
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        pack = {str: lambda: struct.pack("<I", 8) + text(value), int: lambda: struct.pack("<II", 4, value),
                float: lambda: struct.pack("<If", 6, value)}[type(value)]
        out += text(key) + pack()
    data = b""
    for name, tensor in random.sample(list(tensors.items()), len(tensors)):
        this = kind if len(tensor.shape) == 2 else "F32"
        out += text(name) + struct.pack("<I", len(tensor.shape))
        out += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape[::-1]) + struct.pack("<IQ", code[this], len(data))
        data += q8_0(tensor.cells) if this == "Q8_0" else b"".join(map(NARROW[this], tensor.cells))
        data += bytes(-len(data) % 32)
    pathlib.Path(path).write_bytes(out + bytes(-len(out) % 32) + data)


def llama(biases=False, tie=False):
    config = {"model_type": "qwen2" if biases else "llama", "hidden_size": DIM, "num_hidden_layers": LAYERS,
              "num_attention_heads": HEADS, "num_key_value_heads": KV, "intermediate_size": FFN,
              "max_position_embeddings": CONTEXT, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
              "tie_word_embeddings": tie}
    t = {"model.embed_tokens.weight": Tensor.random(VOCAB, DIM), "model.norm.weight": Tensor.random(DIM)}
    if not tie:
        t["lm_head.weight"] = Tensor.random(VOCAB, DIM)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        for name in "input_layernorm", "post_attention_layernorm":
            t[f"{p}{name}.weight"] = Tensor.random(DIM)
        for name, rows in ("q", HEADS * HEAD), ("k", KV * HEAD), ("v", KV * HEAD):
            t[f"{p}self_attn.{name}_proj.weight"] = Tensor.random(rows, DIM)
            if biases:
                t[f"{p}self_attn.{name}_proj.bias"] = Tensor.random(rows)
        t[f"{p}self_attn.o_proj.weight"] = Tensor.random(DIM, DIM)
        t[f"{p}mlp.gate_proj.weight"] = Tensor.random(FFN, DIM)
        t[f"{p}mlp.up_proj.weight"] = Tensor.random(FFN, DIM)
        t[f"{p}mlp.down_proj.weight"] = Tensor.random(DIM, FFN)
    return config, t


def gpt2():
    config = {"model_type": "gpt2", "n_embd": DIM, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT,
              "vocab_size": VOCAB}
    t = {"transformer.wte.weight": Tensor.random(VOCAB, DIM), "transformer.wpe.weight": Tensor.random(CONTEXT, DIM)}
    for part in "weight", "bias":
        t[f"transformer.ln_f.{part}"] = Tensor.random(DIM)
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        for name in "ln_1", "ln_2":
            for part in "weight", "bias":
                t[f"{p}{name}.{part}"] = Tensor.random(DIM)
        for name, rows, columns in (("attn.c_attn", DIM, 3 * DIM), ("attn.c_proj", DIM, DIM),
                                    ("mlp.c_fc", DIM, 4 * DIM), ("mlp.c_proj", 4 * DIM, DIM)):
            t[f"{p}{name}.weight"], t[f"{p}{name}.bias"] = Tensor.random(rows, columns), Tensor.random(columns)
    return config, t


LLAMA_NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
               "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
               "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
               "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
GPT2_NAMES = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
              "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "transformer.wte": "token_embd",
              "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm"}


def as_gguf(config, tensors):
    """The tensors as llama.cpp's converter names and turns them."""
    out = {}
    for name, tensor in tensors.items():
        path, part = name.rsplit(".", 1)
        words, block = path.split("."), ""
        if len(words) > 2 and words[2].isdigit():
            block, path = f"blk.{words[2]}.", ".".join(words[3:])
        if config["model_type"] == "llama" and path.endswith(("q_proj", "k_proj")):
            tensor = tensor.interleaved(HEADS if path.endswith("q_proj") else KV)
        if config["model_type"] == "gpt2" and ".c_" in name and part == "weight":
            tensor = tensor.transposed()
        names = GPT2_NAMES if config["model_type"] == "gpt2" else LLAMA_NAMES
        out[f"{block}{names[path]}.{part}"] = tensor
    return out


def llama2c_bytes(tensors, tie, tables):
    """Version 0, in the order in which llama2.c maps it."""
    out = struct.pack("<7i", DIM, FFN, LAYERS, HEADS, KV, VOCAB if tie else -VOCAB, CONTEXT)
    parts = [tensors["model.embed_tokens.weight"]]
    for name in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                 "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"):
        for i in range(LAYERS):
            tensor = tensors[f"model.layers.{i}.{name}.weight"]
            heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV}.get(name)
            parts.append(tensor.interleaved(heads) if heads else tensor)
    parts.append(tensors["model.norm.weight"])
    out += b"".join(b"".join(t.cells) for t in parts) + tables
    return out + (b"" if tie else b"".join(tensors["lm_head.weight"].cells))


class Formats(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def make(self, name, config, tensors, dtype="F32", shards=0):
        folder = self.path(name)
        os.makedirs(folder)
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        if not shards:
            write_safetensors(os.path.join(folder, "model.safetensors"), tensors, dtype)
            return folder
        names, where = list(tensors), {}
        random.shuffle(names)
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            write_safetensors(os.path.join(folder, file), {n: tensors[n] for n in names[i::shards]}, dtype)
            where.update({n: file for n in names[i::shards]})
        index = json.dumps({"metadata": {}, "weight_map": where})
        pathlib.Path(folder, "model.safetensors.index.json").write_text(index)
        return folder

    def ok(self, *args):
        code, err = run(*args)
        self.assertEqual(code, 0, err)

    def test_safetensors_types_and_shards(self):
        for kind, (config, tensors) in {"llama": llama(), "qwen2": llama(True, True), "gpt2": gpt2()}.items():
            for dtype in NARROW:
                for shards in 0, 3:
                    with self.subTest(kind=kind, dtype=dtype, shards=shards):
                        tag = f"{kind}-{dtype}-{shards}"
                        self.make(tag, config, tensors, dtype, shards)
                        self.ok("import", self.path(tag), "--from", "safetensors", "--out", self.path(tag + "-out"))
                        self.assertEqual(read_safetensors(self.path(tag + "-out/model.safetensors")),
                                         dict(sorted(tensors.items())))

    def test_gguf(self):
        for kind, (config, tensors) in {"llama": llama(), "tied": llama(tie=True), "qwen2": llama(True),
                                        "gpt2": gpt2()}.items():
            with self.subTest(kind=kind):
                self.make(kind, config, tensors)
                self.ok("export", self.path(kind), "--to", "gguf", "--out", self.path(kind + ".gguf"))
                file = Gguf(self.path(kind + ".gguf"))
                self.assertEqual(file.tensors, as_gguf(config, tensors))
                arch = config["model_type"]
                self.assertEqual(file.keys["general.architecture"], arch)
                expected = {"context_length": CONTEXT, "embedding_length": DIM, "block_count": LAYERS,
                            "feed_forward_length": 4 * DIM if arch == "gpt2" else FFN, "attention.head_count": HEADS}
                if arch != "gpt2":
                    expected.update({"attention.head_count_kv": KV, "rope.dimension_count": HEAD, "rope.freq_base": 1e4})
                for key, value in expected.items():
                    self.assertEqual(file.keys[f"{arch}.{key}"], value)
                self.ok("import", self.path(kind + ".gguf"), "--from", "gguf", "--out", self.path(kind + "-back"))
                self.assertEqual(read_safetensors(self.path(kind + "-back/model.safetensors")), tensors)

    def test_gguf_of_others(self):
        config, tensors = llama()
        keys = {"general.architecture": "llama", "llama.context_length": CONTEXT, "llama.embedding_length": DIM,
                "llama.block_count": LAYERS, "llama.feed_forward_length": FFN, "llama.attention.head_count": HEADS,
                "llama.attention.head_count_kv": KV, "llama.attention.layer_norm_rms_epsilon": 1e-5}
        for kind in "F16", "BF16", "Q8_0":
            with self.subTest(kind=kind):
                name = self.path("blob-" + kind)  # told by its first bytes, not by its name
                write_gguf(name, keys, as_gguf(config, tensors), kind)
                self.ok("import", name, "--from", "gguf", "--out", name + "-back")
                self.assertEqual(read_safetensors(name + "-back/model.safetensors"), tensors)
        for key, value, word in (("general.architecture", "mamba", "mamba"), ("llama.block_count", 3, "blk.2."),
                                 ("llama.rope.scaling.type", "yarn", "rope.scaling.type"),
                                 ("llama.expert_count", 8, "expert_count"), ("llama.vocab_size", 21, "vocab_size")):
            with self.subTest(key=key):
                write_gguf(self.path("bad.gguf"), {**keys, key: value}, as_gguf(config, tensors), "F16")
                code, err = run("import", self.path("bad.gguf"), "--out", self.path("x"))
                self.assertNotEqual(code, 0)
                self.assertIn(word, err)

    def test_llama2c(self):
        tables = 4 * CONTEXT * HEAD
        for tie in False, True:
            with self.subTest(tie=tie):
                config, tensors = llama(tie=tie)
                tag = f"tie-{tie}"
                self.make(tag, config, tensors)
                self.ok("export", self.path(tag), "--to", "llama2c", "--out", self.path(tag + ".bin"))
                written = pathlib.Path(self.path(tag + ".bin")).read_bytes()
                end = len(written) - (0 if tie else 4 * VOCAB * DIM)
                self.assertEqual(written, llama2c_bytes(tensors, tie, written[end - tables:end]))
                # The import reads what others write, whose tables may be anything.
                pathlib.Path(self.path("other.bin")).write_bytes(llama2c_bytes(tensors, tie, b"\xff" * tables))
                with open(self.path("tokenizer.bin"), "wb") as file:
                    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [bytes([97 + i]) for i in range(VOCAB - 3)]
                    file.write(struct.pack("<i", max(map(len, pieces))))
                    for piece in pieces:
                        file.write(struct.pack("<fi", 0, len(piece)) + piece)
                self.ok("import", "--from", "llama2c", self.path("other.bin"), "--tokenizer",
                        self.path("tokenizer.bin"), "--out", self.path(tag + "-back"))
                self.assertEqual(read_safetensors(self.path(tag + "-back/model.safetensors")), tensors)

    def test_broken_files_are_named(self):
        config, tensors = llama()
        self.make("good", config, tensors)
        self.ok("export", self.path("good"), "--to", "gguf", "--out", self.path("good.gguf"))
        cut = pathlib.Path(self.path("good.gguf")).read_bytes()[:-100]
        pathlib.Path(self.path("cut.gguf")).write_bytes(cut)
        code, err = run("import", self.path("cut.gguf"), "--out", self.path("x"))
        self.assertEqual(code, 65, err)
        self.assertIn("cut.gguf", err)
        missing = dict(tensors)
        del missing["model.layers.1.mlp.up_proj.weight"]
        self.make("missing", config, missing)
        code, err = run("export", self.path("missing"), "--to", "gguf", "--out", self.path("x"))
        self.assertNotEqual(code, 0)
        self.assertIn("model.layers.1.mlp.up_proj.weight: expected (64, 32), found none", err)
        self.make("bias", *llama(True))
        code, err = run("export", self.path("bias"), "--to", "llama2c", "--out", self.path("x"))
        self.assertNotEqual(code, 0)
        self.assertIn("biases", err)
        self.assertFalse(os.path.exists(self.path("x")))


if __name__ == "__main__":
    random.seed(1)
    unittest.main()
