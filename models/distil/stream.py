"""The endless stream of training batches, made while training from seeds that never repeat."""
import pathlib
import random

from tokenizers import Tokenizer

from corpus.copying import lesson
from corpus.render import pieces
from corpus.scenes import choosing, pack
from distil.packs import batch

TOKENIZER = pathlib.Path(__file__).parents[1] / "default" / "tokenizer.json"
LONGEST = 1088  # tokens of a prefix and one of its units
PER_PACK = 14


def encode(tokenizer, messages, tools):
    """(ids, weights) of one conversation; the weight of a token is that of its piece."""
    parts = pieces(messages, tools)
    encoded = tokenizer.encode_batch([text for text, _ in parts], add_special_tokens=False)
    ids, weights = [], []
    for part, (_, weight) in zip(encoded, parts):
        ids += part.ids
        weights += [weight] * len(part.ids)
    return ids, weights


def encode_pack(tokenizer, system, tools, units, brief=False):
    """(prefix ids, [(ids, weights) of every unit]); `brief` ends every answer behind the name of its first tool."""
    prefix = encode(tokenizer, [system], tools)[0]
    made = []
    for unit in units:
        ids, weights = encode(tokenizer, [system] + unit, tools)
        ids, weights = ids[len(prefix):], weights[len(prefix):]
        if brief:
            told, end = weights.index(1.0), 0
            while '", "' not in tokenizer.decode(ids[told:end or told], skip_special_tokens=False):
                end = (end or told) + 1
            ids, weights = ids[:end], weights[:end]
        made.append((ids, weights))
    return prefix, made


class Stream:
    """Batches of about `batch_tokens` tokens in packs; `copy_share` of the packs are copy lessons, `choice_share` of the others lessons in choosing a tool."""

    def __init__(self, seed, batch_tokens, made=0):
        self.tokenizer = Tokenizer.from_file(str(TOKENIZER))
        self.seed, self.batch_tokens = seed, batch_tokens
        self.made = made
        self.copy_share = self.choice_share = 0.0

    def _pack(self):
        self.made += 1
        # neighbours tell the same home and requests under different tool and parameter names
        rng, brief = random.Random(f"{self.seed}-{self.made // 2}"), False
        if rng.random() < self.copy_share:
            messages, tools = lesson(random.Random(f"{self.seed}-lesson-{self.made}"))
            system, units = messages[0], [messages[at : at + 2] for at in range(1, len(messages), 2)]
        elif brief := rng.random() < self.choice_share:
            system, tools, units = choosing(rng, flavour=self.made % 2)
        else:
            system, tools, units = pack(rng, count=PER_PACK, flavour=self.made % 2)[:3]
        prefix, made = encode_pack(self.tokenizer, system, tools, units, brief)
        return prefix, [unit for unit in made if len(prefix) + len(unit[0]) <= LONGEST]

    def next(self):
        """One `distil.packs.Batch`; at least one pack, however long."""
        packs, tokens = [], 0
        while tokens < self.batch_tokens:
            prefix, units = self._pack()
            if units:
                packs.append((prefix, units))
                tokens += len(prefix) + sum(len(ids) for ids, _ in units)
        return batch(packs)
