//! What the verbs beside `request` say.

use serde_json::{Map, Value};

use super::{Mail, NAME_RULE, Refusal, ReplyTo, read_id};
use crate::fault::{Code, Fault, Kind};
use crate::transport::mqtt::topics::{NO_ID, Topics, is_name};
use crate::transport::shape::{present, text, wrong};

/// What `cancel`, `get` and `ack` say: an id, in JSON or bare; and for `get`, where the copy goes.
pub(in super::super) fn read_named(
    topics: &Topics,
    client: &str,
    mail: &Mail,
) -> Result<(String, Option<ReplyTo>), Box<Refusal>> {
    let mut reply = ReplyTo { topic: topics.reply(client, NO_ID), correlation: mail.correlation.clone(), cid: None };
    let read = || -> Result<(String, Option<String>), Fault> {
        let payload = std::str::from_utf8(&mail.payload)
            .map_err(|error| Fault::invalid(format!("payload is not UTF-8: {error}")))?;
        if !payload.trim_start().starts_with('{') {
            let id = payload.trim();
            return if is_name(id) { Ok((id.to_owned(), None)) } else { Err(wrong("id", NAME_RULE)) };
        }
        let object: Map<String, Value> = serde_json::from_str(payload)
            .map_err(|error| Fault::new(Kind::Caller, Code::InvalidJson, format!("payload is not JSON: {error}")))?;
        let wanted = present(&object, "reply_to").map(|topic| text(topic, "reply_to")).transpose()?;
        Ok((read_id(&object)?, wanted))
    };
    match read() {
        Ok((id, wanted)) => {
            let wanted = mail.response_topic.clone().or(wanted);
            let target = match wanted {
                None => None,
                Some(topic) if topics.may_reply(client, &topic) => Some(ReplyTo { topic, ..reply }),
                Some(_) => {
                    reply.topic = topics.reply(client, &id);
                    let fault =
                        Fault::new(Kind::Caller, Code::Forbidden, "reply topic is not below the client's own subtree");
                    return Err(Box::new(Refusal { id, reply, fault }));
                }
            };
            Ok((id, target))
        }
        Err(fault) => Err(Box::new(Refusal { id: NO_ID.to_owned(), reply, fault })),
    }
}
