"""Train a small GPT on Python's own reference manual, twice: with flexdsl, and with dense masks.

    python examples/train_tiny_gpt.py [--steps 200] [--device cpu] [--plot loss.png]

The text is read as bytes. Its paragraphs are packed into rows of 1024, several in each, and a byte
sees only what is near and before it in its own paragraph. Both models begin with the same numbers
and see the same rows, so that their losses must fall in the same way.
"""

import argparse
import time
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import nn

import flexdsl as fx
from flexdsl import stdlib

LENGTH, BATCH = 1024, 2  # bytes in a row, rows in a step
WINDOW = 96  # bytes that each one sees, itself included
DIM, HEADS, LAYERS = 128, 4, 3
# How far the last losses may be apart, in nats, by rounding: in float32, and in the GPU's bfloat16.
# A window of half the width makes a difference of 0.01 after 100 steps.
TOLERANCE = {"cpu": 0.002, "cuda": 0.02}
LAST = 20  # steps whose mean loss is compared


def flexdsl_attention(documents):
    """Attention for rows whose byte i belongs to document `documents[row, i]`."""
    mask = stdlib.document(documents) & stdlib.sliding_window(WINDOW)
    return lambda q, k, v: fx.attention(q, k, v, mask=mask)


def dense_attention(documents):
    """The same with torch alone, which needs a matrix of all pairs."""
    i = torch.arange(LENGTH, device=documents.device)
    distance = i[:, None] - i[None, :]
    near = (distance >= 0) & (distance < WINDOW)
    mask = (documents[:, :, None] == documents[:, None, :]) & near
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])


class Block(nn.Module):
    """Attention, then two layers of neurons; each adds to what comes in."""

    def __init__(self):
        super().__init__()
        self.before_attention, self.before_neurons = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.neurons = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x, attention):
        batch, length, _ = x.shape
        qkv = self.qkv(self.before_attention(x)).view(batch, length, 3, HEADS, DIM // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [batch, heads, length, dim of a head]
        x = x + self.out(attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return x + self.neurons(self.before_neurons(x))


class TinyGPT(nn.Module):
    """Bytes to the scores of the byte that follows each."""

    def __init__(self):
        super().__init__()
        self.bytes, self.positions = nn.Embedding(256, DIM), nn.Embedding(LENGTH, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 256)

    def forward(self, text, attention):
        x = self.bytes(text) + self.positions.weight
        for block in self.blocks:
            x = block(x, attention)
        return self.head(self.norm(x))


def read_text():
    """All paragraphs of the manual after each other: their bytes, and the number of each byte's."""
    paragraphs = [p.encode() for topic in topics.values() for p in topic.split("\n\n") if p.strip()]
    lengths = torch.tensor([len(p) for p in paragraphs])
    documents = torch.arange(len(paragraphs), dtype=torch.int32).repeat_interleave(lengths)
    return torch.frombuffer(bytearray(b"".join(paragraphs)), dtype=torch.uint8), documents


def rows_of(text, documents, steps, device):
    """The rows of each step: bytes, the byte that follows each, and their documents."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH, (BATCH, 1), generator=generator)
        places = starts + torch.arange(LENGTH + 1)
        row, document = text[places].long(), documents[places]
        # The first byte of another document cannot be foretold from this one.
        target = row[:, 1:].masked_fill(document[:, 1:] != document[:, :-1], -100)
        yield row[:, :-1].to(device), target.to(device), document[:, :-1].contiguous().to(device)


def train(make_attention, steps, device):
    """The loss of each step, and the seconds that all took."""
    torch.manual_seed(0)
    model = TinyGPT().to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    begin = time.perf_counter()
    for text, target, documents in rows_of(*read_text(), steps, device):
        # On a GPU, matrices are multiplied in bfloat16.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            scores = model(text, make_attention(documents))
        loss = F.cross_entropy(scores.flatten(0, 1).float(), target.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist(), time.perf_counter() - begin


def plot(path, curves):
    """Both curves on one picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    for (name, losses), style in zip(curves.items(), ("-", "--"), strict=True):
        pyplot.plot(losses, style, label=name)
    pyplot.xlabel("step")
    pyplot.ylabel("loss, nats per byte")
    pyplot.legend()
    pyplot.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description="a small GPT, with flexdsl and with dense masks")
    parser.add_argument("--steps", type=int, default=200)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=here)
    parser.add_argument("--plot", metavar="FILE", help="draw both losses (needs matplotlib)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps must be at least 1")

    text, documents = read_text()
    size = sum(p.numel() for p in TinyGPT().parameters())
    print(f"{len(text):,} bytes in {int(documents[-1]) + 1:,} paragraphs; {size:,} parameters")
    device, curves = torch.device(options.device), {}
    for name, make in {"flexdsl": flexdsl_attention, "dense SDPA": dense_attention}.items():
        curves[name], seconds = train(make, options.steps, device)
        print(f"{name}: {options.steps} steps in {seconds:.1f} s")

    print("step    " + "  ".join(f"{name:>10}" for name in curves))
    for step in sorted({*range(0, options.steps, max(options.steps // 10, 1)), options.steps - 1}):
        print(f"{step:4}    " + "  ".join(f"{losses[step]:10.4f}" for losses in curves.values()))
    if options.plot:
        plot(options.plot, curves)

    ours, dense = (sum(x[-LAST:]) / len(x[-LAST:]) for x in curves.values())
    print(f"mean of the last {LAST} steps: {ours:.4f} and {dense:.4f} nats per byte")
    assert abs(ours - dense) < TOLERANCE[device.type], "the models have learned different things"


if __name__ == "__main__":
    main()
