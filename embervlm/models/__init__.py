"""The network in PyTorch; nothing outside training and `backends/pytorch.py` needs it."""
