"""onnxruntime-genai's own generator, as a second opinion on the references."""


def wrong_rows(folder, rows):
    """Rows whose greedy tokens differ from the reference, up to the first end token; raises what genai raises where it cannot run the folder."""
    import onnxruntime_genai as genai

    model, wrong = genai.Model(str(folder)), []
    for index, row in enumerate(rows):
        prompt, ends = row["prompt"], row["ends_after"]
        wanted = row["greedy"][: ends - 1] if ends else row["greedy"]  # it leaves the end token out
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=len(prompt) + len(row["greedy"]))
        generator = genai.Generator(model, parameters)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        found = generator.get_sequence(0).tolist()[len(prompt):]
        if found != wanted:
            wrong.append(index)
    return wrong
