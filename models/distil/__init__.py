"""Training of the default model: network, optimiser, stream of samples, loop."""
