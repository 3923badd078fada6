"""From a trained checkpoint to the shipped folder: graph, quantisation, manifest, proofs."""
