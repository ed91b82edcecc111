"""The peer of the training bench: the same GPT-2- or Llama-shaped step in PyTorch (Debian python3-torch).

Protocol, so that the driver can interleave it with our own runs: build the model and warm up, print one JSON
line {"ready": ...}, then for every line read on standard input run that many whole steps (forward, backward,
clip, AdamW) and print one JSON line with their times. End of input: print the peak memory and leave.
"""
import argparse
import json
import math
import resource
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Rms(nn.Module):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def attend(q, k, v, mask):
    att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(q.size(-1)))
    return torch.softmax(att + mask, dim=-1) @ v


class Gpt2Block(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads = a.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(a.dim), nn.LayerNorm(a.dim)
        self.attn, self.proj = nn.Linear(a.dim, 3 * a.dim), nn.Linear(a.dim, a.dim)
        self.fc, self.out = nn.Linear(a.dim, a.ffn), nn.Linear(a.ffn, a.dim)

    def forward(self, x, mask, rope):
        b, t, c = x.shape
        q, k, v = self.attn(self.ln_1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(attend(q, k, v, mask).transpose(1, 2).reshape(b, t, c))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class LlamaBlock(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads = a.heads
        self.n1, self.n2 = Rms(a.dim), Rms(a.dim)
        self.attn, self.proj = nn.Linear(a.dim, 3 * a.dim, bias=False), nn.Linear(a.dim, a.dim, bias=False)
        self.gate, self.up = nn.Linear(a.dim, a.ffn, bias=False), nn.Linear(a.dim, a.ffn, bias=False)
        self.down = nn.Linear(a.ffn, a.dim, bias=False)

    def forward(self, x, mask, rope):
        b, t, c = x.shape
        q, k, v = self.attn(self.n1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        cos, sin = rope
        turn = lambda y: torch.cat((-y[..., y.size(-1) // 2:], y[..., : y.size(-1) // 2]), dim=-1)
        q, k = q * cos + turn(q) * sin, k * cos + turn(k) * sin
        x = x + self.proj(attend(q, k, v, mask).transpose(1, 2).reshape(b, t, c))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self, a):
        super().__init__()
        gpt2 = a.family == "gpt2"
        self.wte = nn.Embedding(a.vocab, a.dim)
        self.wpe = nn.Embedding(a.context, a.dim) if gpt2 else None
        self.blocks = nn.ModuleList([(Gpt2Block if gpt2 else LlamaBlock)(a) for _ in range(a.layers)])
        self.norm = nn.LayerNorm(a.dim) if gpt2 else Rms(a.dim)
        self.register_buffer("mask", torch.full((a.context, a.context), float("-inf")).triu(1))
        half = a.dim // a.heads // 2
        angle = torch.outer(torch.arange(a.context).float(), 10000.0 ** (-torch.arange(half).float() / half))
        angle = torch.cat((angle, angle), dim=-1)
        self.rope = (angle.cos(), angle.sin())
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0.0, 0.02)

    def forward(self, tokens, targets):
        t = tokens.size(1)
        x = self.wte(tokens)
        if self.wpe is not None:
            x = x + self.wpe.weight[:t]
        rope = (self.rope[0][:t], self.rope[1][:t])
        for block in self.blocks:
            x = block(x, self.mask[:t, :t], rope)
        logits = F.linear(self.norm(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", choices=["gpt2", "llama"], default="gpt2")
    for name, value in dict(layers=6, dim=384, heads=6, ffn=1536, context=256, vocab=256, micro_batch=3,
                            micro_batches=4, length=256, threads=2, warmup=2).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = Model(a)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=3e-4, betas=(0.9, 0.95), eps=1e-8)
    data = torch.randint(0, a.vocab, (a.micro_batches, a.micro_batch, a.length + 1))

    def step():
        optimizer.zero_grad(set_to_none=True)
        for part in data:
            (model(part[:, :-1], part[:, 1:].contiguous()) / a.micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for _ in range(a.warmup):
        step()
    print(json.dumps({"ready": True, "torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        start = time.monotonic()
        for _ in range(int(line)):
            step()
        print(json.dumps({"steps": int(line), "seconds": time.monotonic() - start}), flush=True)
    print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


if __name__ == "__main__":
    main()
