"""A peer of bench/serve: Llama's shape with random weights in PyTorch (Debian python3-torch), keys and values kept;
protocol of serve.c (kinds prefill, one, many). --int8: linear layers as torch.quantization's dynamic int8, which is
what it has in place of Q8_0."""
import argparse
import json
import math
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

PREFILL, STREAMS, CONTEXT = 256, 16, 512


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


class Block(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads, self.ffn = a.heads, a.ffn
        self.n1, self.n2 = (nn.Parameter(torch.ones(a.dim)) for _ in range(2))
        self.qkv, self.o = nn.Linear(a.dim, 3 * a.dim, bias=False), nn.Linear(a.dim, a.dim, bias=False)
        self.wide, self.down = nn.Linear(a.dim, 2 * a.ffn, bias=False), nn.Linear(a.ffn, a.dim, bias=False)
        self.k, self.v = (torch.randn(STREAMS, a.heads, CONTEXT, a.dim // a.heads) for _ in range(2))

    def forward(self, x, at, cos, sin, mask):  # x (streams, count, dim), positions from `at`
        s, t, c = x.shape
        q, k, v = self.qkv(norm(x, self.n1)).view(s, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        half = c // self.heads // 2
        turn = lambda y: y * cos + torch.cat((-y[..., half:], y[..., :half]), -1) * sin
        q, self.k[:s, :, at:at + t], self.v[:s, :, at:at + t] = turn(q), turn(k), v
        scores = q @ self.k[:s, :, :at + t].transpose(-2, -1) * (1 / math.sqrt(2 * half))
        if mask is not None:
            scores += mask
        x = x + self.o((torch.softmax(scores, -1) @ self.v[:s, :, :at + t]).transpose(1, 2).reshape(s, t, c))
        gate, up = self.wide(norm(x, self.n2)).split(self.ffn, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.embed = nn.Embedding(a.vocab, a.dim)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.layers))
        self.norm, self.head = nn.Parameter(torch.ones(a.dim)), nn.Linear(a.dim, a.vocab, bias=False)
        half = a.dim // a.heads // 2
        angle = torch.outer(torch.arange(CONTEXT).float(), 10000.0 ** (-torch.arange(half).float() / half))
        angle = torch.cat((angle, angle), -1)
        self.cos, self.sin = angle.cos(), angle.sin()
        self.mask = torch.full((PREFILL, PREFILL), -math.inf).triu(1)

    def forward(self, tokens, at):  # logits of the last position
        t = tokens.size(1)
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, at, self.cos[at:at + t], self.sin[at:at + t], self.mask[:t, :t] if t > 1 else None)
        return self.head(norm(x[:, -1], self.norm))


def main():
    parser = argparse.ArgumentParser()
    for name in ("layers", "dim", "heads", "ffn", "vocab", "threads", "position"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--int8", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = Model(a).eval()
    if a.int8:
        model = torch.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    print(json.dumps(dict(ready=True, torch=torch.__version__, threads=torch.get_num_threads())), flush=True)
    tokens = torch.arange(PREFILL) * 7919 % a.vocab
    with torch.inference_mode():
        for line in sys.stdin:
            kind, count = line.split()
            streams, length = STREAMS if kind == "many" else 1, PREFILL if kind == "prefill" else 1
            batch, start = tokens[:length].expand(streams, length), time.monotonic()
            for i in range(int(count)):
                model(batch, 0 if kind == "prefill" else a.position + i)
            spent = time.monotonic() - start
            print(json.dumps(dict(tokens=int(count) * streams * length, seconds=spent)), flush=True)


if __name__ == "__main__":
    main()
