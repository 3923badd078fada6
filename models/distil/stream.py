"""The endless stream of training batches, made while training from seeds that never repeat."""
import pathlib
import random

import torch
from tokenizers import Tokenizer

from corpus.copying import lesson
from corpus.render import pieces
from corpus.scenes import conversation

TOKENIZER = pathlib.Path(__file__).parents[1] / "default" / "tokenizer.json"
LONGEST = 1088
POOL = 192  # samples sorted by length together, so that a batch holds rows of nearly one length


def encode(tokenizer, messages, tools):
    """(ids, weights) of one conversation; the weight of a token is that of its piece."""
    parts = pieces(messages, tools)
    encoded = tokenizer.encode_batch([text for text, _ in parts], add_special_tokens=False)
    ids, weights = [], []
    for part, (_, weight) in zip(encoded, parts):
        ids += part.ids
        weights += [weight] * len(part.ids)
    return ids, weights


class Stream:
    """Batches of about `batch_tokens` tokens; `copy_share` of the samples are copy lessons."""

    def __init__(self, seed, batch_tokens):
        self.tokenizer = Tokenizer.from_file(str(TOKENIZER))
        self.seed, self.batch_tokens = seed, batch_tokens
        self.made = 0
        self.ready = []
        self.copy_share = 0.0

    def _sample(self):
        self.made += 1
        # neighbours tell the same home and requests under different tool and parameter names
        rng = random.Random(f"{self.seed}-{self.made // 2}")
        messages, tools = lesson(random.Random(f"{self.seed}-lesson-{self.made}")) if rng.random() < self.copy_share else conversation(rng, flavour=self.made % 2)[:2]
        return encode(self.tokenizer, messages, tools)

    def _fill(self):
        pool = []
        while len(pool) < POOL:
            ids, weights = self._sample()
            if 40 < len(ids) <= LONGEST:
                pool.append((ids, weights))
        pool.sort(key=lambda sample: len(sample[0]))
        batch = []
        for sample in pool:
            if batch and len(sample[0]) * (len(batch) + 1) > self.batch_tokens:
                self.ready.append(batch)
                batch = []
            batch.append(sample)
        random.Random(self.made).shuffle(self.ready)  # the short remainder is dropped

    def next(self):
        """(ids [B, S], wanted flat positions, their targets, their weights); padding is never wanted."""
        while not self.ready:
            self._fill()
        rows = self.ready.pop()
        width = max(len(ids) for ids, _ in rows) - 1
        inputs = torch.zeros(len(rows), width, dtype=torch.long)
        targets = torch.zeros(len(rows), width, dtype=torch.long)
        weights = torch.zeros(len(rows), width)
        for row, (ids, weight) in enumerate(rows):
            inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            targets[row, : len(ids) - 1] = torch.tensor(ids[1:])
            weights[row, : len(ids) - 1] = torch.tensor(weight[1:])
        wanted = weights.view(-1).nonzero().squeeze(1)
        return inputs, wanted, targets.view(-1)[wanted], weights.view(-1)[wanted]
