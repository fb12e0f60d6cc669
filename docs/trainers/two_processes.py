"""Train a small Transformer in several processes.

torchrun --standalone --nproc-per-node=2 two_processes.py weights.pt
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa

TOKENS, WIDTH, LENGTH = 16, 32, 8


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each with a skip."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.act, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        """Take and return `[N, T, D]`."""
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class LanguageModel(nn.Module):
    """Indices `[N, T]` to logits `[N, T, C]`."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS)

    def forward(self, x):
        """Predict the next tokens."""
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def attached_model():
    """Attach a rule with a point after each block; every process starts from the same weights."""
    torch.manual_seed(0)
    model = LanguageModel()
    fa.attach(model, fa.DFA(), example_inputs=torch.zeros(2, LENGTH, dtype=torch.long), points=Block)
    return model


def train(model, rank=0, num_ranks=1):
    """Take twenty steps on this process's part of each batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = torch.Generator().manual_seed(0)
    for _ in range(20):
        text = torch.randint(TOKENS, (8, 1), generator=data) + torch.arange(LENGTH + 1)
        part = (text % TOKENS).chunk(num_ranks)[rank]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())
        loss.backward()
        optimizer.step()


def main(file):
    """Train the model twice, copied to every process and spread over them, and save the weights."""
    dist.init_process_group("gloo")
    rank, num_ranks = dist.get_rank(), dist.get_world_size()

    copied = attached_model()
    train(DistributedDataParallel(copied), rank, num_ranks)

    spread, mesh = attached_model(), init_device_mesh("cpu", (num_ranks,))
    for block in spread.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(spread, mesh=mesh)
    train(spread, rank, num_ranks)
    whole = get_model_state_dict(spread, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    if rank == 0:
        torch.save({"DistributedDataParallel": copied.state_dict(), "fully_shard": whole}, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
