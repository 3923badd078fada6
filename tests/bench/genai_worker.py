"""onnxruntime-genai's Generator: reads `STREAMS PAST STEPS` lines, writes tokens/s of greedy decoding, all streams together."""
import sys
import time

import numpy as np
import onnxruntime_genai as genai


def main():
    model = genai.Model(sys.argv[1])
    vocabulary = 4000  # below every vocabulary that is measured
    draw = np.random.default_rng(1)
    for line in sys.stdin:
        streams, past, steps = map(int, line.split())
        options = genai.GeneratorParams(model)
        options.set_search_options(batch_size=streams, max_length=past + steps + 4, min_length=past + steps + 4, do_sample=False)
        generator = genai.Generator(model, options)
        generator.append_tokens(draw.integers(3, vocabulary, (streams, past)).astype(np.int32))
        generator.generate_next_token()
        generator.generate_next_token()
        begun = time.perf_counter()
        for _ in range(steps):
            generator.generate_next_token()
        print(streams * steps / (time.perf_counter() - begun), flush=True)
        del generator


if __name__ == "__main__":
    main()
