"""The benchmark's model: 497 M random weights, 100 M of them active, one checkpoint for every runtime that is compared."""
