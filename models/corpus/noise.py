"""What speech recognition and hurried typing do to a request; figures and units stay readable."""

FILLERS = ["uh", "um", "hey", "ok", "okay", "well", "so", "er", "listen", "hi"]
TAILS = ["please", "thanks", "now", "thank you", "would you", "for me", "right now", "pls"]
KEYS = {"a": "s", "e": "r", "i": "o", "o": "p", "t": "r", "n": "m", "l": "k", "s": "d", "r": "t", "h": "g", "g": "h", "u": "i"}


def _typo(rng, text):
    words = text.split(" ")
    long = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha()]
    if not long:
        return text
    at = rng.choice(long)
    word = words[at]
    place = rng.randrange(1, len(word) - 1)
    draw = rng.random()
    if draw < 0.35:
        word = word[:place] + word[place + 1:]
    elif draw < 0.7:
        word = word[:place - 1] + word[place] + word[place - 1] + word[place + 1:]
    elif draw < 0.85:
        word = word[:place] + word[place] + word[place:]
    else:
        word = word[:place] + KEYS.get(word[place], word[place]) + word[place + 1:]
    words[at] = word
    return " ".join(words)


def unseen(rng, text):
    """Noise that training never has: shouting, a word twice, a lost blank, a stutter, a hesitation in the middle."""
    words = text.split(" ")
    at = rng.randrange(len(words))
    draw = rng.random()
    if draw < 0.2:
        return text.upper()
    if draw < 0.4:
        words.insert(at, words[at])
    elif draw < 0.6 and len(words) > 2:
        at = rng.randrange(len(words) - 1)
        words[at : at + 2] = [words[at] + words[at + 1]]
    elif draw < 0.8 and words[at][:1].isalpha():
        words[at] = f"{words[at][0]}-{words[at]}"
    else:
        words.insert(at, rng.choice(("...", "erm...", "-", "hmm,")))
    return " ".join(words)


def finish(rng, text, question, held_out=False):
    """Case and full stop of a clean request; on about 30 %, noise; `held_out`: always, and of sorts that training never has."""
    text = " ".join(text.split())
    if held_out:
        return unseen(rng, text)
    if rng.random() < 0.7:
        if rng.random() < 0.6:
            text = text[:1].upper() + text[1:]
        if question:
            return text + ("?" if rng.random() < 0.7 else "")
        return text + rng.choice(("", "", ".", "!" if rng.random() < 0.2 else ""))
    draw = rng.random()
    if draw < 0.40:
        text = text.lower()
    elif draw < 0.60:
        text = f"{rng.choice(FILLERS)} {text}"
    elif draw < 0.75 and not question:
        text = f"{text} {rng.choice(TAILS)}"
    elif draw < 0.90:
        text = _typo(rng, text)
    else:
        text = " ".join(w for w in text.split(" ") if w.lower() not in ("the", "a", "to", "of"))
    return text
