use proptest::prelude::*;
use serde_json::json;

use super::*;

const MAX: usize = 4096;

fn topics() -> Topics {
    Topics::new("moed/v1", "hall")
}

fn mail(payload: &(impl ToString + ?Sized)) -> Mail {
    Mail {
        topic: "moed/v1/node/hall/c/lamp/request".to_owned(),
        payload: payload.to_string().into_bytes(),
        ..Mail::default()
    }
}

fn read(mail: &Mail) -> Result<(Request, ReplyTo), Box<Refusal>> {
    read_request(&topics(), "lamp", mail, MAX)
}

fn refused(mail: &Mail) -> (Code, Option<String>, String, String) {
    let refusal = read(mail).unwrap_err();
    (refusal.fault.code, refusal.fault.param, refusal.id, refusal.reply.topic)
}

#[test]
fn a_whole_request_is_read() {
    let (request, reply) = read(&mail(&json!({
        "v": 1, "id": "q.1", "prompt": "hi", "params": {"max_tokens": 5, "seed": 3, "stop": "\n"},
        "stream": true, "ack": true, "priority": "alarm", "deadline_ms": 1500, "cid": "c", "newer": {"field": 1},
        "reply_to": "moed/v1/c/lamp/inbox", "tools": [{"name": "on"}],
    })))
    .unwrap();
    assert_eq!((request.id.as_str(), request.messages[0].content.as_deref()), ("q.1", Some("hi")));
    assert_eq!((request.settings.max_tokens, request.settings.sampling.seed), (Some(5), Some(3)));
    assert!(request.stream && request.ack && request.priority == Priority::Alarm && request.tools.len() == 1);
    assert_eq!(request.deadline, Some(Duration::from_millis(1500)));
    assert_eq!(
        reply,
        ReplyTo {
            topic: "moed/v1/c/lamp/inbox".to_owned(),
            correlation: Some(b"c".to_vec()),
            cid: Some("c".to_owned())
        }
    );
    let again = read_stored(&request.stored).unwrap();
    assert_eq!(again, request, "what is stored reads back the same");
    let job = request.job("lamp", Some(3), 2, None);
    assert!(job.reproducible && job.attempt == 2 && job.sampling.seed == Some(3) && job.origin.client == "lamp");
}

#[test]
fn the_form_of_the_answer_is_read_stored_and_goes_into_the_job() {
    let schema = json!({"type": "object"});
    let format = Format::JsonSchema { schema: schema.clone(), strict: false };
    let (request, _) = read(&mail(&json!({"id": "q", "prompt": "x",
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})))
    .unwrap();
    let job = read_stored(&request.stored).unwrap().job("lamp", None, 1, None);
    assert_eq!(job.format, format);
    let (request, _) =
        read(&mail(&json!({"id": "q", "prompt": "x", "tools": [{"name": "on"}], "tool_choice": "required",
        "parallel_tool_calls": false})))
        .unwrap();
    let job = read_stored(&request.stored).unwrap().job("lamp", None, 1, None);
    assert_eq!((job.tool_choice, job.parallel_calls), (ToolChoice::Required, false));
}

#[test]
fn what_cannot_be_read_is_answered_where_it_can_be() {
    let r = |id: &str| format!("moed/v1/c/lamp/r/{id}");
    let cases = [
        (mail("{"), Code::InvalidJson, None, "-"),
        (Mail { content_type: Some("application/json".to_owned()), ..mail("[1]") }, Code::InvalidJson, None, "-"),
        (mail("{}"), Code::InvalidRequest, Some("id"), "-"),
        (mail(&json!({"id": "a/b", "prompt": "x"})), Code::InvalidRequest, Some("id"), "-"),
        (mail(&json!({"id": 7, "prompt": "x"})), Code::InvalidRequest, Some("id"), "-"),
        (mail(&json!({"id": "1"})), Code::InvalidRequest, Some("messages"), "1"),
        (mail(&json!({"id": "1", "prompt": "x", "messages": []})), Code::InvalidRequest, Some("prompt"), "1"),
        (mail(&json!({"id": "1", "prompt": "x", "v": 2})), Code::InvalidRequest, Some("v"), "1"),
        (mail(&json!({"id": "1", "prompt": "x", "session": "a b"})), Code::InvalidRequest, Some("session"), "1"),
        (
            mail(&json!({"id": "1", "prompt": "x", "params": {"temprature": 1}})),
            Code::InvalidRequest,
            Some("params.temprature"),
            "1",
        ),
        (
            mail(&json!({"id": "1", "prompt": "x", "tool_choice": "required"})),
            Code::InvalidRequest,
            Some("tool_choice"),
            "1",
        ),
        (
            mail(&json!({"id": "1", "prompt": "x", "response_format": {"type": "xml"}})),
            Code::InvalidRequest,
            Some("response_format.type"),
            "1",
        ),
        (
            mail(
                &json!({"id": "1", "prompt": "x", "response_format": {"type": "json_object"}, "params": {"stop": "}"}}),
            ),
            Code::InvalidRequest,
            Some("stop"),
            "1",
        ),
        (
            mail(&json!({"id": "1", "prompt": "x", "reply_to": "homeassistant/x"})),
            Code::Forbidden,
            Some("reply_to"),
            "1",
        ),
        (mail(&json!({"id": "1", "prompt": "x", "cid": "y".repeat(129)})), Code::InvalidRequest, Some("cid"), "1"),
        (Mail { retain: true, ..mail(&json!({"id": "1", "prompt": "x"})) }, Code::InvalidRequest, None, "1"),
        (Mail { content_type: Some("image/png".to_owned()), ..mail("x") }, Code::UnsupportedMediaType, None, "-"),
        (mail(&json!({"id": "big", "prompt": "x".repeat(MAX)})), Code::TooLarge, None, "big"),
        (mail(&"y".repeat(MAX + 1)), Code::TooLarge, None, "-"),
        (mail("   "), Code::InvalidRequest, None, "-"),
    ];
    for (mail, code, param, id) in cases {
        let shown = String::from_utf8_lossy(&mail.payload).chars().take(60).collect::<String>();
        assert_eq!(refused(&mail), (code, param.map(str::to_owned), id.to_owned(), r(id)), "{shown}");
    }
    let garbage = Mail { payload: vec![0xff, 0xfe], ..mail("") };
    assert_eq!(refused(&garbage).0, Code::InvalidRequest);
    // Where the sender calls it text, that is what is wrong, whatever else it is.
    let told = Mail { is_text: true, content_type: Some("application/json".to_owned()), ..garbage };
    let refusal = read(&told).unwrap_err();
    assert_eq!(refusal.fault.code, Code::InvalidRequest);
    assert!(refusal.fault.message.contains("payload format indicator"), "{}", refusal.fault);
    let text = mail(&json!({"id": "1", "prompt": "ä"}));
    assert_eq!(read(&Mail { is_text: true, ..text.clone() }).unwrap(), read(&text).unwrap());
    let forbidden =
        Mail { response_topic: Some("moed/v1/c/other/r/1".to_owned()), ..mail(&json!({"id": "1", "prompt": "x"})) };
    assert_eq!(refused(&forbidden), (Code::Forbidden, Some("reply_to".to_owned()), "1".to_owned(), r("1")));
}

#[test]
fn a_bare_prompt_needs_nothing_and_keeps_its_id_with_correlation_data() {
    let with = Mail { correlation: Some(vec![1, 2]), ..mail("how warm is it?") };
    let (first, reply) = read(&with).unwrap();
    assert_eq!(first.messages, [Message::text(crate::job::Role::User, "how warm is it?")]);
    assert_eq!(reply.topic, topics().reply("lamp", &first.id));
    assert_eq!(read(&with).unwrap().0.id, first.id);
    assert_ne!(read(&mail("how warm is it?")).unwrap().0.id, read(&mail("how warm is it?")).unwrap().0.id);
    let named = Mail { id: Some("n1".to_owned()), ..mail("x") };
    assert_eq!(read(&named).unwrap().0.id, "n1");
    let plain = Mail { content_type: Some("text/plain; charset=utf-8".to_owned()), ..mail("{not json}") };
    assert_eq!(read(&plain).unwrap().0.messages[0].content.as_deref(), Some("{not json}"));
}

#[test]
fn message_expiry_and_deadline_the_sooner_counts() {
    let expiry = |seconds| Some(Duration::from_secs(seconds));
    let with = |expiry, deadline: Value| {
        read(&Mail { expiry, ..mail(&json!({"id": "1", "prompt": "x", "deadline_ms": deadline})) }).unwrap().0.deadline
    };
    assert_eq!(with(expiry(5), json!(9000)), expiry(5));
    assert_eq!(with(expiry(50), json!(9000)), expiry(9));
    assert_eq!(with(None, Value::Null), None);
    assert_eq!(with(expiry(u64::from(u32::MAX)), Value::Null), Some(DEADLINE_MAX));
}

#[test]
fn verbs_take_an_id_in_json_or_bare() {
    let named = |payload: &str| read_named(&topics(), "lamp", &mail(payload));
    assert_eq!(named("{\"v\":1,\"id\":\"a\"}").unwrap(), ("a".to_owned(), None));
    assert_eq!(named(" a\n").unwrap().0, "a");
    assert_eq!(named("").unwrap_err().reply.topic, "moed/v1/c/lamp/r/-");
    assert_eq!(named("{\"id\":").unwrap_err().fault.code, Code::InvalidJson);
    let target = named("{\"id\":\"a\",\"reply_to\":\"moed/v1/c/lamp/x\"}").unwrap().1.unwrap();
    assert_eq!(target.topic, "moed/v1/c/lamp/x");
    assert_eq!(named("{\"id\":\"a\",\"reply_to\":\"x\"}").unwrap_err().fault.code, Code::Forbidden);
}

proptest! {
    #[test]
    fn no_message_makes_the_reader_fall_or_points_an_answer_elsewhere(
        payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "\\{\"id\":\"\\PC{0,9}\",\"reply_to\":\"\\PC{0,30}\",\"prompt\":\"x\"\\}".prop_map(String::into_bytes),
        ],
        response_topic in proptest::option::of("(moed/v1/c/lamp/)?\\PC{0,30}"),
        content_type in proptest::option::of("application/json|text/plain|\\PC{0,9}"),
        id in proptest::option::of("\\PC{0,70}"),
    ) {
        let mail = Mail { payload, response_topic, content_type, id, ..mail("") };
        let (id, topic) = match read(&mail) {
            Ok((request, reply)) => (request.id, reply.topic),
            Err(refusal) => (refusal.id, refusal.reply.topic),
        };
        prop_assert!(is_name(&id));
        prop_assert!(topics().may_reply("lamp", &topic), "{}", topic);
    }
}
