"""How long a run trains and when its rates fall: until a time of day, or for a number of tokens."""
import time

STOP_SECONDS = 330


class Clock:
    """Wall-clock schedule: 1 until the decay begins, then linear to 0 at the deadline."""

    def __init__(self, deadline, decay_share):
        self.deadline, self.decay = deadline, (deadline - time.time()) * decay_share

    def hurry(self):
        """Ends within STOP_SECONDS."""
        if self.deadline - time.time() > STOP_SECONDS:
            self.deadline, self.decay = time.time() + STOP_SECONDS, STOP_SECONDS

    def scale(self, _):
        return max(0.0, min(1.0, (self.deadline - time.time()) / self.decay))

    def over(self, _):
        return time.time() >= self.deadline


class Budget:
    """Schedule by tokens, the same however fast the machine is and however often the run is broken off."""

    def __init__(self, tokens, decay_share):
        self.tokens, self.decay = tokens, tokens * decay_share

    def scale(self, tokens):
        return max(0.0, min(1.0, (self.tokens - tokens) / self.decay))

    def over(self, tokens):
        return tokens >= self.tokens
