"""The endless stream of training batches, made while training from seeds that never repeat."""
import pathlib
import random

from tokenizers import Tokenizer

from corpus.copying import lesson
from corpus.render import pieces
from corpus.scenes import choosing, pack
from corpus.split import whole_part
from corpus.tokenizer import MARKS, SPECIAL, VOCABULARY
from distil.network import Shape
from distil.packs import batch, stretched

TOKENIZER = pathlib.Path(__file__).parents[1] / "default" / "tokenizer.json"
LONGEST, CONTEXT = 1408, Shape().max_position_embeddings  # tokens of a prefix and one of its units: of most packs, of long ones
LONG_SHARE, LARGE = 0.04, (18, 46)  # of the packs are of homes with so many devices
STRETCHED_SHARE = 0.15  # of the packs have places left out
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


def plain_tokens(tokenizer):
    """Tokens that stand for text and are not on their own a held-out part of a name."""
    return [token for token in range(len(SPECIAL), VOCABULARY - len(MARKS)) if not whole_part(tokenizer.decode([token]))]


def echo(rng, tokens):
    """A pack that asks for plain copying alone: any tokens, then two or three of them in their order, to be gone on with.

    A token that no text of the corpus holds would else never be told from the others of its kind, nor ever be said.
    """
    prefix = rng.choices(tokens, k=rng.randrange(40, 300))
    units = []
    for _ in range(PER_PACK):
        cue, length = rng.randrange(2, 4), rng.randrange(4, 25)
        at = rng.randrange(len(prefix) - cue - length)
        units.append((prefix[at : at + cue + length], [0.0] * cue + [1.0] * length))
    return prefix, units


class Stream:
    """Batches of about `batch_tokens` tokens in packs; `copy_share` of the packs are copy lessons, half of them `echo`, and `choice_share` of the
    others lessons in choosing a tool."""

    def __init__(self, seed, batch_tokens, made=0):
        self.tokenizer = Tokenizer.from_file(str(TOKENIZER))
        self.plain = plain_tokens(self.tokenizer)
        self.seed, self.batch_tokens = seed, batch_tokens
        self.made = made
        self.copy_share = self.choice_share = 0.0

    def _pack(self):
        self.made += 1
        # neighbours tell the same home and requests under different tool and parameter names
        rng, brief, longest = random.Random(f"{self.seed}-{self.made // 2}"), False, LONGEST
        if rng.random() < self.copy_share:
            if rng.random() < 0.5:
                return echo(random.Random(f"{self.seed}-echo-{self.made}"), self.plain)
            messages, tools = lesson(random.Random(f"{self.seed}-lesson-{self.made}"))
            system, units = messages[0], [messages[at : at + 2] for at in range(1, len(messages), 2)]
        elif rng.random() < LONG_SHARE:
            longest = CONTEXT
            system, tools, units = pack(rng, count=PER_PACK, size=rng.randrange(*LARGE), flavour=self.made % 2)[:3]
        elif brief := rng.random() < self.choice_share:
            system, tools, units = choosing(rng, flavour=self.made % 2)
        else:
            system, tools, units = pack(rng, count=PER_PACK, flavour=self.made % 2)[:3]
        prefix, made = encode_pack(self.tokenizer, system, tools, units, brief)
        units = [unit for unit in made if len(prefix) + len(unit[0]) <= longest]
        if units and rng.random() < STRETCHED_SHARE:
            spare = CONTEXT - len(prefix) - max(len(unit[0]) for unit in units)
            return prefix, units, stretched(rng, len(prefix), spare)
        return prefix, units

    def next(self):
        """One `distil.packs.Batch`; at least one pack, however long."""
        packs, tokens = [], 0
        while tokens < self.batch_tokens:
            prefix, units, *places = self._pack()
            if units:
                packs.append((prefix, units, *places))
                tokens += len(prefix) + sum(len(ids) for ids, _ in units)
        return batch(packs)
