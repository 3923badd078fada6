//! Real model folders on the real runtime: templates byte-equal to transformers, tokens equal to the recorded ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::path::Path;

use harness::{onnxruntime, root};
use moed::engine::forward::{Forward, Row};
use moed::engine::selfcheck;
use moed::engine::session::{self, Kept, OnnxForward, Settings};
use moed::job::{Message, Role, Tool, ToolCall};
use moed::model::folder::Folder;
use moed::text::template::{Template, TemplateError};
use moed::text::tokenizer::Tokenizer;
use serde_json::Value;

fn load(name: &str, slots: usize) -> (Folder, OnnxForward) {
    session::load_runtime(&onnxruntime()).unwrap();
    let folder = Folder::load(&root().join("models").join(name)).unwrap();
    let forward = OnnxForward::load(&folder, &settings(slots, folder.context.min(2048))).unwrap();
    (folder, forward)
}

fn settings(slots: usize, context: usize) -> Settings {
    Settings {
        slots,
        context,
        row_max: 512.min(context),
        threads: 1,
        cache_bytes_max: 1 << 30,
        kept: Kept::Pieces(4),
        block_tokens: 8,
    }
}

/// Reads one row and copies the scores after its last token.
fn last(forward: &mut OnnxForward, slot: usize, past: usize, tokens: &[u32], logits: &mut Vec<f32>) {
    forward.forward(&[Row { slot, past, tokens, scores: 1 }]).unwrap();
    logits.clear();
    logits.extend_from_slice(forward.scores(0, 0));
}

fn greedy(forward: &mut OnnxForward, prompt: &[u32], steps: usize, eos: &[u32]) -> Vec<u32> {
    let mut logits: Vec<f32> = Vec::new();
    let mut tokens: Vec<u32> = Vec::new();
    let mut past = 0;
    for piece in prompt.chunks(512) {
        last(forward, 0, past, piece, &mut logits);
        past += piece.len();
    }
    loop {
        let best = (0_u32..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).unwrap().0;
        tokens.push(best);
        if tokens.len() == steps || eos.contains(&best) {
            return tokens;
        }
        last(forward, 0, past, &[best], &mut logits);
        past += 1;
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_tiny_model_reads_whole_in_pieces_and_in_batches_alike() {
    let (folder, mut forward) = load("tiny", 4);
    let golden = folder.manifest.unwrap().golden;
    let found = selfcheck::check(&mut forward, &golden, "cpu").unwrap();
    assert_eq!((found.golden, found.batch_invariant), (1, true));
    // Without golden prompts: whole against pieces.
    assert_eq!(selfcheck::check(&mut forward, &[], "cpu").unwrap().golden, 0);
}

#[test]
fn a_slot_that_was_copied_goes_on_as_the_original_does() {
    let (_, mut forward) = load("tiny", 4);
    let prompt: Vec<u32> = "a longer prompt, so that a wrong position shows".bytes().map(u32::from).collect();
    let (mut original, mut copied, mut empty) = (Vec::new(), Vec::new(), Vec::<f32>::new());
    last(&mut forward, 2, 0, &prompt, &mut original);
    forward.copy_slot(2, 0, prompt.len());
    let next = [u32::from(b'x')];
    last(&mut forward, 2, prompt.len(), &next, &mut original);
    last(&mut forward, 0, prompt.len(), &next, &mut copied);
    assert_eq!(original, copied);
    // A slot that was not copied would give something else: the comparison can fail.
    last(&mut forward, 1, 0, &prompt[1..], &mut empty);
    last(&mut forward, 1, prompt.len() - 1, &next, &mut empty);
    assert_ne!(original, empty);
}

#[test]
fn rows_that_break_the_contract_are_refused_before_they_reach_the_runtime() {
    let (_, mut forward) = load("tiny", 2);
    let long = vec![1; 513];
    for (row, part) in [
        (Row { slot: 0, past: 0, tokens: &[], scores: 1 }, "has 0 tokens"),
        (Row { slot: 2, past: 0, tokens: &[1], scores: 1 }, "slot 2, 2 slots"),
        (Row { slot: 0, past: 2048, tokens: &[1], scores: 1 }, "ends at 2049, context 2048"),
        (Row { slot: 0, past: 600, tokens: &[1], scores: 1 }, "slot 0 holds 0 tokens, the step goes on after 600"),
        (Row { slot: 0, past: 0, tokens: &[1], scores: 2 }, "wants 2 scores of 1 tokens"),
        (Row { slot: 0, past: 0, tokens: &[264], scores: 1 }, "token 264, vocabulary 264"),
        (Row { slot: 0, past: 0, tokens: &long, scores: 1 }, "513 tokens, the most is 512"),
    ] {
        let error = forward.forward(&[row]).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_graph_cut_short_and_a_cache_over_the_memory_limit_are_refused() {
    session::load_runtime(&onnxruntime()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root().join("models/tiny")).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() && entry.file_name() != "manifest.toml" {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let settings = Settings { cache_bytes_max: 1 << 20, ..settings(2, 128) };
    let whole = Folder::load(folder.path()).unwrap();
    let tight = Settings { cache_bytes_max: 1000, ..settings };
    let fault = OnnxForward::load(&whole, &tight).err().unwrap();
    // Two slots of 128 tokens and 4 kept pieces of 8, each token 2 × 16 numbers of 4 bytes.
    assert!(fault.message.contains("36864 bytes (32768 for the slots, 4096 for 4 kept pieces"), "{fault}");
    assert!(fault.message.contains("the limit is 1000"), "{fault}");
    let graph = fs::read(&whole.graph).unwrap();
    fs::write(&whole.graph, &graph[..graph.len() / 2]).unwrap();
    let fault = OnnxForward::load(&whole, &settings).err().unwrap();
    assert!(fault.message.contains("model.onnx"), "{fault}");
}

#[test]
fn recorded_requests_render_byte_equal_to_transformers() {
    let folder = Folder::load(&root().join("models/default")).unwrap();
    let template = Template::new(folder.template, folder.bos, folder.eos).unwrap();
    let requests = lines(&root().join("tests/templates/default.jsonl"));
    assert!(requests.len() >= 50, "{} recorded requests", requests.len());
    for (number, request) in requests.iter().enumerate() {
        let add_generation_prompt = request["add_generation_prompt"].as_bool().unwrap();
        let text = template.render_json(&request["messages"], &request["tools"], add_generation_prompt).unwrap();
        assert_eq!(text, request["rendered"].as_str().unwrap(), "line {}", number + 1);
    }
}

#[test]
fn other_templates_render_as_transformers_renders_them() {
    let requests = lines(&root().join("tests/templates/other.jsonl"));
    for (number, request) in requests.iter().enumerate() {
        let source = request["template"].as_str().unwrap().to_owned();
        let template = Template::new(source, String::new(), "<|im_end|>".to_owned()).unwrap();
        let add_generation_prompt = request["add_generation_prompt"].as_bool().unwrap_or(false);
        let rendered = template.render_json(&request["messages"], &request["tools"], add_generation_prompt);
        match (rendered, &request["error"]) {
            (Ok(text), Value::Null) => assert_eq!(text, request["rendered"].as_str().unwrap(), "line {}", number + 1),
            (Err(TemplateError::Refused(words)), Value::String(expected)) => assert_eq!(&words, expected),
            (other, expected) => panic!("line {}: {other:?}, expected {expected}", number + 1),
        }
    }
}

#[test]
fn a_folder_in_hugging_faces_layout_runs_after_whole_and_pieces_agree() {
    session::load_runtime(&onnxruntime()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("onnx")).unwrap();
    let tiny = root().join("models/tiny");
    fs::copy(tiny.join("model.onnx"), path.join("onnx/model.onnx")).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tiny.join(file), path.join(file)).unwrap();
    }
    let config = r#"{"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16,
                     "vocab_size": 264, "max_position_embeddings": 512, "eos_token_id": 258}"#;
    fs::write(path.join("config.json"), config).unwrap();
    let folder = Folder::load(path).unwrap();
    assert!(folder.manifest.is_none());
    let mut forward = OnnxForward::load(&folder, &settings(2, 512)).unwrap();
    let found = selfcheck::check(&mut forward, &[], "cpu").unwrap();
    assert_eq!((found.golden, found.batch_invariant), (0, true));
    let prompt: Vec<u32> = "assistant\n".bytes().map(u32::from).collect();
    let alphabet: Vec<u32> = (b'a'..=b'e').map(u32::from).collect();
    assert_eq!(greedy(&mut forward, &prompt, 5, &folder.eos_ids), alphabet);
}

/// A recorded message as a transport would make it.
fn message(value: &Value) -> Message {
    let role = match value["role"].as_str().unwrap() {
        "system" => Role::System,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => Role::User,
    };
    let calls = value["tool_calls"].as_array().into_iter().flatten().map(|call| {
        let function = call.get("function").unwrap_or(call);
        let arguments = match &function["arguments"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        ToolCall { id: "1".to_owned(), name: function["name"].as_str().unwrap().to_owned(), arguments }
    });
    Message {
        role,
        content: value["content"].as_str().map(str::to_owned),
        tool_calls: calls.collect(),
        tool_call_id: None,
        name: None,
    }
}

#[test]
fn a_job_renders_as_its_recorded_request_does() {
    let folder = Folder::load(&root().join("models/default")).unwrap();
    let tokenizer = Tokenizer::load(&folder.tokenizer).unwrap();
    let template = Template::new(folder.template, folder.bos, folder.eos).unwrap();
    let mut compared = 0;
    for request in lines(&root().join("tests/templates/default.jsonl")) {
        let list = |key: &str| request[key].as_array().cloned().unwrap_or_default();
        let plain =
            list("messages").iter().all(|message| message["content"].is_string() || message["content"].is_null());
        // Arguments that are no JSON object as text cannot come through a transport as an object.
        if request["add_generation_prompt"] != true || !plain {
            continue;
        }
        let messages: Vec<Message> = list("messages").iter().map(message).collect();
        let tools: Vec<Tool> = list("tools")
            .iter()
            .map(|tool| {
                let function = tool.get("function").unwrap_or(tool);
                Tool {
                    name: function["name"].as_str().unwrap().to_owned(),
                    description: function["description"].as_str().map(str::to_owned),
                    parameters: function.get("parameters").cloned(),
                    strict: false,
                }
            })
            .collect();
        let text = template.render(&messages, &tools, &tokenizer).unwrap();
        assert_eq!(text.replace('\u{FDD0}', ""), request["rendered"].as_str().unwrap());
        compared += 1;
    }
    assert!(compared >= 30, "{compared} compared");
}

#[test]
fn the_default_model_gives_its_recorded_tokens() {
    let (folder, mut forward) = load("default", 2);
    let golden = folder.manifest.as_ref().unwrap().golden.clone();
    let found = selfcheck::check(&mut forward, &golden, "cpu").unwrap();
    assert!(found.golden >= 3 && found.batch_invariant, "{found:?}");
    let reference: Value =
        serde_json::from_slice(&fs::read(root().join("models/reference/default.json")).unwrap()).unwrap();
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
    };
    let prompts = reference.as_array().unwrap();
    assert!(prompts.len() >= 20, "{} recorded prompts", prompts.len());
    let (mut compared, mut logits) = (0, Vec::new());
    for (number, prompt) in prompts.iter().enumerate() {
        let (tokens, expected) = (ids(&prompt["prompt"]), ids(&prompt["greedy"]));
        let answer = greedy(&mut forward, &tokens, expected.len(), &[]);
        // Recorded on one CPU; the kernels of another may flip a near tie, never a clear choice.
        if prompt["smallest_margin"].as_f64().unwrap() >= 0.5 {
            assert_eq!(answer, expected, "prompt {number}");
            compared += 1;
        }
        last(&mut forward, 0, 0, &tokens, &mut logits);
        for top in prompt["top_logits"].as_array().unwrap() {
            let (id, score) = (usize::try_from(top[0].as_u64().unwrap()).unwrap(), top[1].as_f64().unwrap());
            let difference = (f64::from(logits[id]) - score).abs();
            assert!(difference < 0.05, "prompt {number}, token {id}: {} and {score}", logits[id]);
        }
    }
    assert!(compared >= 10, "only {compared} recorded answers are clear enough to be compared");
}

#[test]
fn a_shipped_folder_is_small_and_whole() {
    let folder = root().join("models/default");
    let bytes: u64 = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(bytes <= 20 << 20, "models/default has {bytes} bytes, the most is 20 MiB");
    let manifest = Folder::load(&folder).unwrap().manifest.unwrap();
    for entry in fs::read_dir(&folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let listed = manifest.files.contains_key(&name) || ["manifest.toml", "README.md"].contains(&name.as_str());
        assert!(listed, "`{name}` is not in the manifest");
    }
}
