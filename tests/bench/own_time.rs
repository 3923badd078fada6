//! The daemon's own time: a step of the engine's model against a bare ONNX Runtime loop, same process, same graph, in turn.
//!
//! `cargo bench --bench own_time -- MODEL [--streams N]... [--rounds N]` prints one JSON object: microseconds a step, by round.
//! The bare loop binds its buffers once; between two of its runs stand a token, a mark in the mask and the clock. The engine's
//! step is everything from a list of rows to scores and their best token. Where the engine waits for nothing else, what it
//! does between two steps is `moed_engine_between_steps_nanoseconds_total`, measured by running answers through it.
#![expect(
    unsafe_code,
    reason = "the bare loop shares past and present, which no safe wrapper of ONNX Runtime can; see decisions/0002"
)]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on fails; it prints what it found"
)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use moed::engine::forward::{Forward, Row};
use moed::engine::session::{self, Kept, OnnxForward, Settings};
use moed::model::folder::Folder;
use ort::sys;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

const PAST: usize = 128;
const RAGGED_BY: usize = 7;
const STEPS: u16 = 32;
/// Tokens that a row of the bare loop's buffers holds.
const ROOM: usize = 512;
/// Between two measurements: the other session's threads stop spinning.
const PAUSE: Duration = Duration::from_millis(30);

fn api() -> &'static sys::OrtApi {
    ort::api()
}

fn accept(status: sys::OrtStatusPtr) {
    if !status.0.is_null() {
        // SAFETY: a non-null status has a message.
        let message = unsafe { CStr::from_ptr((api().GetErrorMessage)(status.0)) };
        panic!("ONNX Runtime: {}", message.to_string_lossy());
    }
}

/// A session and its buffers, bound once. Nothing is released: it lives as long as the process.
struct Bare {
    session: *mut sys::OrtSession,
    inputs: Vec<*const c_char>,
    outputs: Vec<*const c_char>,
    input_values: Vec<*const sys::OrtValue>,
    output_values: Vec<*mut sys::OrtValue>,
    ids: *mut i64,
    mask: *mut i64,
    streams: usize,
    vocabulary: usize,
}

impl Bare {
    fn load(folder: &Folder, threads: usize, streams: usize) -> Self {
        let hints = &folder.hints;
        let wide = |size: usize| i64::try_from(size).unwrap();
        let (heads, head, vocabulary) = (hints.kv_heads.unwrap(), hints.head_size.unwrap(), hints.vocabulary.unwrap());
        let session = open(&folder.graph, threads);
        let mut bare = Self {
            session,
            inputs: Vec::new(),
            outputs: Vec::new(),
            input_values: Vec::new(),
            output_values: Vec::new(),
            ids: null_mut(),
            mask: null_mut(),
            streams,
            vocabulary,
        };
        let float = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        let long = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
        let (scores, _) = tensor::<f32>(&[wide(streams), 1, wide(vocabulary)], float, 0.0);
        bare.outputs.push(c"logits".as_ptr());
        bare.output_values.push(scores);
        for name in input_names(session) {
            let value = match name.to_str().unwrap() {
                "input_ids" => {
                    let (value, ids) = tensor(&[wide(streams), 1], long, 0_i64);
                    bare.ids = ids;
                    value
                }
                "attention_mask" => {
                    let (value, mask) = tensor(&[wide(streams), wide(ROOM)], long, 0_i64);
                    bare.mask = mask;
                    value
                }
                "query_seqlens" => {
                    let kind = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
                    tensor(&[wide(streams)], kind, 1_i32).0
                }
                "num_logits_to_keep" => tensor(&[], long, 1_i64).0,
                past => {
                    let shape = [wide(streams), wide(heads), wide(ROOM), wide(head)];
                    let value = tensor(&shape, float, 0.1_f32).0;
                    let present = past.replace("past_key_values", "present");
                    bare.outputs.push(CString::new(present).unwrap().into_raw());
                    bare.output_values.push(value);
                    value
                }
            };
            bare.inputs.push(name.into_raw());
            bare.input_values.push(value);
        }
        bare
    }

    /// Reads random tokens as the engine's model has, one a step. Rows over equal caches would ask the same experts, and a run
    /// would read less of the weights than the engine's does.
    fn fill(&mut self, random: &mut ChaCha8Rng) {
        let longest = PAST + RAGGED_BY * (self.streams - 1);
        self.decode(|_| 0, longest, |stream, step| step < PAST + RAGGED_BY * stream, random);
    }

    /// Decodes from the same lengths again; microseconds a step.
    fn steps(&mut self, random: &mut ChaCha8Rng) -> f64 {
        let used = |stream| PAST + RAGGED_BY * stream;
        a_step(self.decode(used, usize::from(STEPS), |_, _| true, random))
    }

    /// So many steps after `used` tokens of each stream; those that do not `grow` read over their last token again. Says when
    /// the first one began.
    fn decode(
        &mut self,
        used: impl Fn(usize) -> usize,
        steps: usize,
        grow: impl Fn(usize, usize) -> bool,
        random: &mut ChaCha8Rng,
    ) -> Instant {
        // SAFETY: the two blocks have these lengths, and no run is in progress.
        let (ids, mask) = unsafe {
            (
                std::slice::from_raw_parts_mut(self.ids, self.streams),
                std::slice::from_raw_parts_mut(self.mask, self.streams * ROOM),
            )
        };
        for (stream, line) in mask.chunks_exact_mut(ROOM).enumerate() {
            line[..used(stream)].fill(1);
            line[used(stream)..].fill(0);
        }
        let started = Instant::now();
        for step in 0..steps {
            for (stream, id) in ids.iter_mut().enumerate() {
                *id = i64::from(token(random, self.vocabulary));
                if grow(stream, step) {
                    mask[stream * ROOM + used(stream) + step] = 1;
                }
            }
            // SAFETY: names and values are live and as many as stated; nothing else touches the blocks while it runs.
            accept(unsafe {
                (api().Run)(
                    self.session,
                    null(),
                    self.inputs.as_ptr(),
                    self.input_values.as_ptr(),
                    self.input_values.len(),
                    self.outputs.as_ptr(),
                    self.outputs.len(),
                    self.output_values.as_mut_ptr(),
                )
            });
        }
        started
    }
}

fn open(graph: &Path, threads: usize) -> *mut sys::OrtSession {
    let path = CString::new(graph.as_os_str().as_bytes()).unwrap();
    let (mut environment, mut options, mut session) = (null_mut(), null_mut(), null_mut());
    // SAFETY: every handle is written before it is read; the environment is the process's one, counted up.
    unsafe {
        accept((api().CreateEnv)(
            sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR,
            c"bare".as_ptr(),
            &raw mut environment,
        ));
        accept((api().CreateSessionOptions)(&raw mut options));
        accept((api().SetIntraOpNumThreads)(options, i32::try_from(threads).unwrap()));
        accept((api().CreateSession)(environment, path.as_ptr(), options, &raw mut session));
    }
    session
}

fn input_names(session: *mut sys::OrtSession) -> Vec<CString> {
    let (mut count, mut allocator) = (0, null_mut());
    // SAFETY: a live session; the names are copied and left to the process.
    unsafe {
        accept((api().SessionGetInputCount)(session, &raw mut count));
        accept((api().GetAllocatorWithDefaultOptions)(&raw mut allocator));
        (0..count)
            .map(|index| {
                let mut name = null_mut();
                accept((api().SessionGetInputName)(session, index, allocator, &raw mut name));
                CStr::from_ptr(name).to_owned()
            })
            .collect()
    }
}

/// A tensor over memory that is never freed, filled with `value`.
fn tensor<T: Copy>(shape: &[i64], kind: sys::ONNXTensorElementDataType, value: T) -> (*mut sys::OrtValue, *mut T) {
    let elements = usize::try_from(shape.iter().product::<i64>()).unwrap();
    let memory = Box::leak(vec![value; elements].into_boxed_slice());
    let (mut info, mut made) = (null_mut(), null_mut());
    // SAFETY: the block has as many elements as the shape says and lives for ever; the shape is copied.
    unsafe {
        accept((api().CreateCpuMemoryInfo)(
            sys::OrtAllocatorType::OrtDeviceAllocator,
            sys::OrtMemType::OrtMemTypeDefault,
            &raw mut info,
        ));
        accept((api().CreateTensorWithDataAsOrtValue)(
            info,
            memory.as_mut_ptr().cast::<c_void>(),
            size_of_val(memory),
            shape.as_ptr(),
            shape.len(),
            kind,
            &raw mut made,
        ));
    }
    (made, memory.as_mut_ptr())
}

/// The engine's model: decodes from the same lengths again; microseconds a step.
fn engine_steps(forward: &mut dyn Forward, streams: usize, random: &mut ChaCha8Rng) -> f64 {
    let vocabulary = forward.shape().vocabulary;
    let started = Instant::now();
    for step in 0..usize::from(STEPS) {
        let tokens: Vec<u32> = (0..streams).map(|_| token(random, vocabulary)).collect();
        let row = |(slot, token)| Row {
            slot,
            past: PAST + RAGGED_BY * slot + step,
            tokens: std::slice::from_ref(token),
            scores: 1,
        };
        let rows: Vec<Row<'_>> = tokens.iter().enumerate().map(row).collect();
        forward.forward(&rows).unwrap();
        for row in 0..streams {
            black_box(forward.scores(row, 0).first());
        }
    }
    a_step(started)
}

/// Fills the first streams of the cache.
fn fill(forward: &mut dyn Forward, streams: usize, random: &mut ChaCha8Rng) {
    let shape = forward.shape();
    for slot in 0..streams {
        let tokens: Vec<u32> = (0..PAST + RAGGED_BY * slot).map(|_| token(random, shape.vocabulary)).collect();
        let mut past = 0;
        for piece in tokens.chunks(shape.row_max) {
            forward.forward(&[Row { slot, past, tokens: piece, scores: 0 }]).unwrap();
            past += piece.len();
        }
    }
}

fn token(random: &mut ChaCha8Rng, vocabulary: usize) -> u32 {
    random.next_u32() % u32::try_from(vocabulary).unwrap()
}

fn a_step(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e6 / f64::from(STEPS)
}

fn main() {
    let mut model = PathBuf::from("models/default");
    let (mut streams, mut rounds) = (Vec::new(), 10);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--streams" => streams.push(arguments.next().unwrap().parse::<usize>().unwrap()),
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            _ => model = PathBuf::from(argument),
        }
    }
    if streams.is_empty() {
        streams = vec![1, 8];
    }
    let threads = std::thread::available_parallelism().unwrap().get();
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime/libonnxruntime.so");
    session::load_runtime(&library).unwrap();
    let folder = Folder::load(&model).unwrap();
    let slots = *streams.iter().max().unwrap();
    let settings = Settings {
        slots,
        context: ROOM.min(folder.context),
        row_max: 256,
        threads,
        cache_bytes_max: u64::MAX,
        kept: Kept::Pieces(0),
        block_tokens: 32,
    };
    let mut forward = OnnxForward::load(&folder, &settings).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    fill(&mut forward, slots, &mut random);
    let mut rows: Vec<Value> = Vec::new();
    for streams in streams {
        let mut bare = Bare::load(&folder, threads, streams);
        bare.fill(&mut random);
        let (mut bare_us, mut step_us) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            std::thread::sleep(PAUSE);
            let alone = bare.steps(&mut random);
            std::thread::sleep(PAUSE);
            let step = engine_steps(&mut forward, streams, &mut random);
            // The first round warms up.
            if round > 0 {
                bare_us.push(alone);
                step_us.push(step);
            }
        }
        rows.push(json!({"streams": streams, "bare_us": bare_us, "step_us": step_us}));
    }
    println!("{}", json!({"model": folder.name, "threads": threads, "rows": rows}));
}
