"""The training corpus: a simulated home or plant, a grammar of requests, and the oracle that labels them."""
