"""4-bit quantisation in blocks: value = (whole - 8) * scale, two numbers a byte, the even one in the low half."""
import torch

# Shrinking the range cuts the largest weight and serves the others: the best of these is kept for each block.
RANGES = (1.0, 0.92, 0.84, 0.76)


def blocks4(weight, block, search=True):
    """weight [..., K] float32 -> (uint8 [..., K/2], float32 scales [..., K/block]); K is a multiple of `block`."""
    parts = [_blocks4(part, block, search) for part in torch.from_numpy(weight).reshape(-1, weight.shape[-1]).split(1 << 15)]
    whole, scales = (torch.cat(list(piece)) for piece in zip(*parts))
    packed = whole[:, 0::2] | (whole[:, 1::2] << 4)
    lead = weight.shape[:-1]
    return packed.reshape(*lead, -1).numpy(), scales.reshape(*lead, -1).numpy()


def _blocks4(rows, block, search):
    shaped = rows.reshape(rows.shape[0], -1, block)
    largest = shaped.gather(-1, shaped.abs().argmax(-1, keepdim=True))
    largest = torch.where(largest == 0, torch.ones_like(largest), largest)
    best = None
    for part in RANGES if search else RANGES[:1]:
        scale = largest * (part / -8.0)
        whole = (shaped / scale).round_().clamp_(-8, 7)
        error = (whole * scale - shaped).square_().sum(-1, keepdim=True)
        if best is None:
            best = (whole, scale, error)
        else:
            better = error < best[2]
            best = tuple(torch.where(better, new, old) for new, old in zip((whole, scale, error), best))
    return (best[0] + 8).to(torch.uint8).reshape(rows.shape), best[1].squeeze(-1)


def restore4(packed, scales, block):
    """The weights that the quantised form stands for, as a numpy array."""
    packed, scales = torch.from_numpy(packed), torch.from_numpy(scales)
    whole = torch.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1, block).float() - 8
    return (whole * scales.reshape(*packed.shape[:-1], -1, 1)).reshape(*packed.shape[:-1], -1).numpy()
