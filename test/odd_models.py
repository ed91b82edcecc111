"""Models of odd shapes with random weights, written as others write them (safetensors in F32, F16, BF16, in shards;
GGUF in these and Q8_0 and Q4_0), and what each says after every token, in numpy and float64. Nothing of brigade's is
used. A shape is a dictionary: see SHAPES."""
import json
import os
import struct

import numpy as np

SHAPES = {
    "odd": dict(family="llama", dim=40, heads=4, kv_heads=2, head_dim=10, ffn=52, vocab=303, layers=3, context=60, theta=777.7),
    "shards": dict(family="llama", dim=36, heads=6, kv_heads=2, head_dim=6, ffn=41, vocab=290, layers=2, context=130, theta=5e5, tie=True,
                   type="BF16", shards=3),
    "one": dict(family="llama", dim=50, heads=1, kv_heads=1, head_dim=64, ffn=7, vocab=280, layers=2, context=33, theta=1.0, type="F16"),
    "qwen2": dict(family="qwen2", dim=64, heads=8, kv_heads=4, head_dim=8, ffn=96, vocab=320, layers=2, context=100, theta=1e6),
    "biases": dict(family="llama", dim=33, heads=3, kv_heads=3, head_dim=22, ffn=65, vocab=300, layers=2, context=48, theta=10000.0, biases=True),
    "mistral": dict(family="mistral", dim=128, heads=16, kv_heads=1, head_dim=8, ffn=224, vocab=290, layers=2, context=64, theta=10000.0),
    "wide": dict(family="llama", dim=200, heads=5, kv_heads=1, head_dim=40, ffn=555, vocab=319, layers=2, context=400, theta=10000.0),
    "gpt2": dict(family="gpt2", dim=60, heads=3, ffn=97, vocab=270, layers=3, context=50, tie=True),
    "gpt2-head": dict(family="gpt2", dim=96, heads=3, ffn=160, vocab=301, layers=2, context=129, type="BF16"),
    "tiny": dict(family="llama", dim=2, heads=1, kv_heads=1, head_dim=2, ffn=1, vocab=257, layers=1, context=17, theta=10000.0),
}
EPS = 1e-5


# ---- Weights, by the names that they have in safetensors ----
def llama_weights(c, normal):
    d, f, q, kv = c["dim"], c["ffn"], c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    w = {"model.embed_tokens.weight": normal(c["vocab"], d), "model.norm.weight": 1 + normal(d) / 5}
    if not c.get("tie"):
        w["lm_head.weight"] = normal(c["vocab"], d) * 2 / d ** 0.5
    biased = ("q", "k", "v") if c["family"] == "qwen2" else ("q", "k", "v", "o", "gate", "up", "down") if c.get("biases") else ()
    for i in range(c["layers"]):
        for name in ("input_layernorm", "post_attention_layernorm"):
            w[f"model.layers.{i}.{name}.weight"] = 1 + normal(d) / 5
        for name, rows, columns in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q), ("gate", f, d), ("up", f, d), ("down", d, f)):
            at = f"model.layers.{i}.{'self_attn' if name in 'qkvo' else 'mlp'}.{name}_proj"
            w[at + ".weight"] = normal(rows, columns) * 1.5 / columns ** 0.5
            if name in biased:
                w[at + ".bias"] = normal(rows) / 3
    return w


def gpt2_weights(c, normal):
    d, f = c["dim"], c["ffn"]
    w = {"wte.weight": normal(c["vocab"], d) / 2, "wpe.weight": normal(c["context"], d) / 2}
    if not c.get("tie"):
        w["lm_head.weight"] = normal(c["vocab"], d) / 2
    for norm in ["ln_f"] + [f"h.{i}.ln_{k}" for i in range(c["layers"]) for k in (1, 2)]:
        w[norm + ".weight"], w[norm + ".bias"] = 1 + normal(d) / 5, normal(d) / 5
    for i in range(c["layers"]):
        for name, rows, columns in (("attn.c_attn", d, 3 * d), ("attn.c_proj", d, d), ("mlp.c_fc", d, f), ("mlp.c_proj", f, d)):
            w[f"h.{i}.{name}.weight"], w[f"h.{i}.{name}.bias"] = normal(rows, columns) * 1.5 / rows ** 0.5, normal(columns) / 5
    return w


def weights(c, seed):
    rng = np.random.default_rng(seed)
    return (gpt2_weights if c["family"] == "gpt2" else llama_weights)(c, lambda *shape: rng.standard_normal(shape).astype("f4"))


# ---- What a model says ----
def attend(q, k, v):
    """Heads of (positions, head_dim): causal attention."""
    s = q @ k.T / q.shape[1] ** 0.5 + np.triu(np.full((len(q), len(q)), -np.inf), 1)
    p = np.exp(s - s.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) @ v


def llama(c, w, ids):
    n, size, group = len(ids), c["head_dim"], c["heads"] // c["kv_heads"]
    norm = lambda x, name: x / np.sqrt((x * x).mean(1, keepdims=True) + EPS) * w[name + ".weight"]
    linear = lambda x, name: x @ w[name + ".weight"].T + w.get(name + ".bias", 0)
    angle = np.outer(np.arange(n), c["theta"] ** (-np.arange(0, size, 2) / size))[:, None]
    def turn(x):
        a, b = np.split(x.reshape(n, -1, size), 2, 2)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 2)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["layers"]):
        at = f"model.layers.{i}."
        q, k, v = (linear(norm(x, at + "input_layernorm"), f"{at}self_attn.{name}_proj") for name in "qkv")
        q, k, v = turn(q), turn(k), v.reshape(n, -1, size)
        x = x + linear(np.concatenate([attend(q[:, h], k[:, h // group], v[:, h // group]) for h in range(c["heads"])], 1), at + "self_attn.o_proj")
        y = norm(x, at + "post_attention_layernorm")
        gate = linear(y, at + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")
    x = norm(x, "model.norm")
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T, x


def gpt2(c, w, ids):
    norm = lambda x, name: (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + EPS) * w[name + ".weight"] + w[name + ".bias"]
    linear = lambda x, name: x @ w[name + ".weight"] + w[name + ".bias"]
    x = w["wte.weight"][ids] + w["wpe.weight"][:len(ids)]
    for i in range(c["layers"]):
        at = f"h.{i}."
        heads = (np.split(t, c["heads"], 1) for t in np.split(linear(norm(x, at + "ln_1"), at + "attn.c_attn"), 3, 1))
        x = x + linear(np.concatenate([attend(q, k, v) for q, k, v in zip(*heads)], 1), at + "attn.c_proj")
        y = linear(norm(x, at + "ln_2"), at + "mlp.c_fc")
        x = x + linear(y / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y ** 3))), at + "mlp.c_proj")
    x = norm(x, "ln_f")
    return x @ w.get("lm_head.weight", w["wte.weight"]).T, x


def says(c, w, ids):
    """Log probabilities after every token, and the last hidden state."""
    logits, hidden = (gpt2 if c["family"] == "gpt2" else llama)(c, {name: t.astype("f8") for name, t in w.items()}, ids)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), hidden[-1] / np.linalg.norm(hidden[-1])


# ---- Types: (bytes, the numbers that they stand for) ----
def as_f32(x):
    return x.astype("<f4").tobytes(), x


def as_f16(x):
    return x.astype("<f2").tobytes(), x.astype("<f2").astype("f4")


def as_bf16(x):
    bits = x.view("<u4")
    top = (bits + 0x7fff + (bits >> 16 & 1)) >> 16
    return top.astype("<u2").tobytes(), (top << 16).astype("<u4").view("<f4")


def as_q8_0(x):
    blocks = x.reshape(-1, 32)
    d = (np.abs(blocks).max(1) / 127).astype("f4")
    q = np.round(blocks / np.where(d > 0, d, 1)[:, None]).astype("i1")
    out = np.zeros(len(blocks), [("d", "<f2"), ("q", "i1", 32)])
    out["d"], out["q"] = d, q
    return out.tobytes(), (q * out["d"].astype("f4")[:, None]).reshape(x.shape)


def as_q4_0(x):
    blocks = x.reshape(-1, 32)
    d = (blocks[np.arange(len(blocks)), np.abs(blocks).argmax(1)] / -8).astype("f4")
    q = np.minimum(15, blocks / np.where(d != 0, d, 1)[:, None] + 8.5).astype("u1")
    out = np.zeros(len(blocks), [("d", "<f2"), ("q", "u1", 16)])
    out["d"], out["q"] = d, q[:, :16] | q[:, 16:] << 4
    return out.tobytes(), ((q.astype("f4") - 8) * out["d"].astype("f4")[:, None]).reshape(x.shape)


TYPES = {"F32": (as_f32, 0), "F16": (as_f16, 1), "BF16": (as_bf16, 30), "Q8_0": (as_q8_0, 8), "Q4_0": (as_q4_0, 2)}  # GGML's numbers


# ---- Files ----
def tokenizer(vocab):
    """Bytes, a few merges, an end; ids beyond are of no token."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in printable]
    ids = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}
    merges = ["t h", "th e", "Ġ a", "Ã ©", "i n"][:max(0, vocab - 257)]
    for merge in merges:
        ids[merge.replace(" ", "")] = len(ids)
    end = {"id": len(ids), "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                      "fuse_unk": False, "byte_fallback": False, "vocab": ids, "merges": merges}}


def config(c, end):
    if c["family"] == "gpt2":
        own = dict(n_embd=c["dim"], n_layer=c["layers"], n_head=c["heads"], n_positions=c["context"], n_inner=c["ffn"], layer_norm_epsilon=EPS)
    else:
        own = dict(hidden_size=c["dim"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"], num_key_value_heads=c["kv_heads"],
                   head_dim=c["head_dim"], intermediate_size=c["ffn"], max_position_embeddings=c["context"], rms_norm_eps=EPS, rope_theta=c["theta"])
        if c.get("biases"):
            own |= dict(attention_bias=True, mlp_bias=True)
    return dict(model_type=c["family"], vocab_size=c["vocab"], bos_token_id=None, eos_token_id=end, tie_word_embeddings=bool(c.get("tie")), **own)


def write_directory(c, w, directory):
    """Hugging Face's; returns the weights as they stand there."""
    os.makedirs(directory)
    convert, names, said, where = TYPES[c.get("type", "F32")][0], list(w), {}, {}
    shards = c.get("shards", 1)
    for s in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{s + 1:05}-of-{shards:05}.safetensors"
        head, data = {}, b""
        for name in names[s::shards]:
            raw, said[name] = convert(w[name])
            head[name], where[name] = {"dtype": c.get("type", "F32"), "shape": w[name].shape, "data_offsets": [len(data), len(data) + len(raw)]}, file
            data += raw
        text = json.dumps(head).encode()
        with open(os.path.join(directory, file), "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text + data)
    tokens = tokenizer(c["vocab"])
    files = {"config.json": config(c, tokens["added_tokens"][0]["id"]), "tokenizer.json": tokens}
    if shards > 1:
        files["model.safetensors.index.json"] = {"metadata": {}, "weight_map": where}
    for name, value in files.items():
        with open(os.path.join(directory, name), "w") as out:
            json.dump(value, out)
    return said


GGUF_NAMES = {"model.embed_tokens": "token_embd", "wte": "token_embd", "wpe": "position_embd", "model.norm": "output_norm", "ln_f": "output_norm",
              "lm_head": "output", "input_layernorm": "attn_norm", "ln_1": "attn_norm", "post_attention_layernorm": "ffn_norm", "ln_2": "ffn_norm",
              "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
              "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.c_fc": "ffn_up",
              "mlp.down_proj": "ffn_down", "mlp.c_proj": "ffn_down"}


def gguf_name(name):
    base, end = name.rsplit(".", 1)
    parts = base.split(".")
    layer = 2 if base.startswith("model.layers.") else 1 if base.startswith("h.") else None
    return (GGUF_NAMES[base] if layer is None else f"blk.{parts[layer]}." + GGUF_NAMES[".".join(parts[layer + 1:])]) + "." + end


def write_gguf(c, w, type_name, path):
    """As llama.cpp lays models out, without a vocabulary; returns the weights as they stand there."""
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()
    family = "llama" if c["family"] == "mistral" else c["family"]
    keys = {"context_length": c["context"], "embedding_length": c["dim"], "block_count": c["layers"], "feed_forward_length": c["ffn"],
            "attention.head_count": c["heads"]}
    if family == "gpt2":
        keys |= {"attention.layer_norm_epsilon": EPS}
    else:
        keys |= {"attention.head_count_kv": c["kv_heads"], "attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"],
                 "rope.dimension_count": c["head_dim"], "rope.freq_base": float(c["theta"]), "attention.layer_norm_rms_epsilon": EPS}
    head = text("general.architecture") + struct.pack("<I", 8) + text(family)
    for key, value in keys.items():
        head += text(f"{family}.{key}") + (struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value))
    said, data = {}, b""
    for name, t in w.items():
        def laid(x, back=False):  # how a matrix lies there; it is its own inverse but for the rotation
            if family == "gpt2" and name.startswith("h.") and x.ndim == 2:
                return x.T
            if family == "llama" and (".q_proj" in name or ".k_proj" in name):  # pairs beside each other
                half = c["head_dim"] // 2
                return x.reshape((-1, half, 2) + x.shape[1:] if back else (-1, 2, half) + x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
            return x
        x = np.ascontiguousarray(laid(t))
        plain = x.ndim == 1 or name == "wpe.weight" or (type_name[0] == "Q" and x.shape[1] % 32)
        convert, number = TYPES["F32" if plain else type_name]
        raw, numbers = convert(x)
        said[name] = np.ascontiguousarray(laid(numbers, True))
        head += text(gguf_name(name)) + struct.pack("<I", x.ndim) + struct.pack(f"<{x.ndim}Q", *x.shape[::-1]) + struct.pack("<IQ", number, len(data))
        data += raw + bytes(-len(raw) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(w), 1 + len(keys)) + head
    with open(path, "wb") as out:
        out.write(head + bytes(-len(head) % 32) + data)
    return said
