"""VITA-RMM's loop for any language model: reason, be told, remember, reason better."""
