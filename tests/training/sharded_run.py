"""A few steps of `select` with the weights cut among processes, as FSDP does it, or whole.

python -m torch.distributed.run --nproc_per_node 2 sharded_run.py TOKENIZER OUT

Both processes read the same batch, so what they learn is what one process learns. `OUT` gets the
moving average, put together, and what the trained network answers.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from small_run import Requests, network_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from embervlm.tokenizer import Tokenizer
from embervlm.training.decisions import forward
from embervlm.training.moving_average import MovingAverage, whole
from embervlm.training.stages import STAGES, StageModule, begins_with

STEPS = 3


def main() -> None:
    """Train, put the average in and take it out again, write it."""
    torch.set_num_threads(1)
    tokenizer, out = Tokenizer.from_file(Path(sys.argv[1])), Path(sys.argv[2])
    stage, network = STAGES["select"], network_of(tokenizer)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(begins_with(name, stage.phases[0].moves))
    module = StageModule(network, stage)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        dist.init_process_group("gloo")
        fully_shard(module, mesh=init_device_mesh("cpu", (count,)))
    average = MovingAverage(module, 0.9)
    moving = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moving, lr=0.05)
    requests = Requests(network.config, tokenizer, 8)
    batch = requests.batch(requests.items(0), random.Random(0))
    for step in range(1, STEPS + 1):
        module(batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.follow(step)
    mean = average.whole()
    average.load(mean)
    average.put(average.exchange())
    with whole(module), torch.no_grad():
        logits = {"logits": forward(network, batch)["subsets"].contiguous()}
    found = average.whole() | logits
    if int(os.environ.get("RANK", "0")) == 0:
        save_file(found, out)
    if count > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
