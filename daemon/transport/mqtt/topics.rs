//! Every topic name, built and parsed here and nowhere else.
//!
//! A broker does not tell who published. The client's name is a level of the topic so that the broker's access list can
//! vouch for it (`pattern write moed/v1/node/+/c/%u/request`), and all answers go below one subtree of that client.

/// Bytes of a Response Topic; longer ones would fill the journal with targets instead of questions.
pub const REPLY_TOPIC_MAX: usize = 256;
/// Characters of a node's, a client's or a request's name.
pub const NAME_MAX: usize = 64;
/// Stands for the id where a request's own cannot be read.
pub const NO_ID: &str = "-";

/// Whether a text can be a level of a topic: `[A-Za-z0-9_.-]{1,64}`.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// What a client asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Request,
    Cancel,
    Get,
    Ack,
}

impl Verb {
    /// All of them, as they are subscribed.
    pub const ALL: [Self; 4] = [Self::Request, Self::Cancel, Self::Get, Self::Ack];

    /// The last level of the topic.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Cancel => "cancel",
            Self::Get => "get",
            Self::Ack => "ack",
        }
    }
}

/// Where a message that came in belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming<'t> {
    /// A client asks whichever member of our pool.
    Pool { client: &'t str },
    /// A client's verb.
    Client { client: &'t str, verb: Verb },
    /// Our own availability, as the broker has it.
    Available,
}

/// The names under one root, for one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    root: String,
    node: String,
    /// Empty: no member of any.
    pool: String,
    /// Filters of what answers may go to beside the client's own subtree.
    replies: Vec<String>,
}

impl Topics {
    /// The names of `node` under `root`.
    pub fn new(root: &str, node: &str) -> Self {
        Self {
            root: root.trim_end_matches('/').to_owned(),
            node: node.to_owned(),
            pool: String::new(),
            replies: Vec::new(),
        }
    }

    /// The same node as a member of a pool.
    #[must_use]
    pub fn in_pool(self, pool: &str) -> Self {
        Self { pool: pool.to_owned(), ..self }
    }

    /// The same node, whose answers may also go where one of these filters matches.
    #[must_use]
    pub fn answering(self, replies: &[String]) -> Self {
        Self { replies: replies.to_vec(), ..self }
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Retained `online` or `offline`; the will.
    pub fn available(&self) -> String {
        format!("{}/node/{}/available", self.root, self.node)
    }

    /// The retained card.
    pub fn info(&self) -> String {
        format!("{}/node/{}/info", self.root, self.node)
    }

    /// Events of the node's life.
    pub fn event(&self) -> String {
        format!("{}/node/{}/event", self.root, self.node)
    }

    /// Gauges.
    pub fn metrics(&self) -> String {
        format!("{}/node/{}/metrics", self.root, self.node)
    }

    /// Orders of every administrator; see [`is_control_filter`].
    pub fn control_filter(&self) -> String {
        format!("{}/node/{}/control/+/+", self.root, self.node)
    }

    /// Reads the topic of an order: who gives it, and which.
    pub fn read_control<'t>(&self, topic: &'t str) -> Option<(&'t str, &'t str)> {
        let rest = topic.strip_prefix(&self.root)?.strip_prefix("/node/")?.strip_prefix(&self.node)?;
        let (admin, verb) = rest.strip_prefix("/control/")?.split_once('/')?;
        (is_name(admin) && is_name(verb)).then_some((admin, verb))
    }

    /// The card of whichever node, for a client that looks for one.
    pub fn any_info(root: &str) -> String {
        format!("{}/node/+/info", root.trim_end_matches('/'))
    }

    /// What a node subscribes to: one filter a verb, then its own availability.
    pub fn filters(&self) -> Vec<String> {
        let verbs = Verb::ALL.iter().map(|verb| format!("{}/node/{}/c/+/{}", self.root, self.node, verb.name()));
        verbs.chain([self.available()]).collect()
    }

    /// Where a client sends a verb.
    pub fn verb(&self, client: &str, verb: Verb) -> String {
        format!("{}/node/{}/c/{client}/{}", self.root, self.node, verb.name())
    }

    /// Where a client asks whichever member of a pool.
    pub fn pool_request(root: &str, pool: &str, client: &str) -> String {
        format!("{}/pool/{pool}/c/{client}/request", root.trim_end_matches('/'))
    }

    /// What a member of our pool subscribes to. The group's name is the pool's: one of its own for each node would give
    /// every question to every node.
    pub fn pool_filter(&self) -> String {
        format!("$share/moed.{}/{}", self.pool, Self::pool_request(&self.root, &self.pool, "+"))
    }

    /// Where answers to a client's request go unless it says otherwise.
    pub fn reply(&self, client: &str, id: &str) -> String {
        format!("{}/c/{client}/r/{id}", self.root)
    }

    /// Reads the topic of a message that came in.
    pub fn parse<'t>(&self, topic: &'t str) -> Option<Incoming<'t>> {
        let below = topic.strip_prefix(&self.root)?.strip_prefix('/')?;
        if let Some(pool) = below.strip_prefix("pool/") {
            let client = pool.strip_prefix(&self.pool)?.strip_prefix("/c/")?.strip_suffix("/request")?;
            return (!self.pool.is_empty() && is_name(client)).then_some(Incoming::Pool { client });
        }
        let mut levels = below.strip_prefix("node/")?.strip_prefix(&self.node)?.strip_prefix('/')?.split('/');
        match (levels.next()?, levels.next(), levels.next(), levels.next()) {
            ("available", None, None, None) => Some(Incoming::Available),
            ("c", Some(client), Some(verb), None) if is_name(client) => {
                let verb = Verb::ALL.into_iter().find(|known| known.name() == verb)?;
                Some(Incoming::Client { client, verb })
            }
            _ => None,
        }
    }

    /// Whether an answer may be published there: strictly below the client's own subtree or where the operator allows it, as
    /// one plain name. Otherwise any client could make the node publish into another's topics.
    pub fn may_reply(&self, client: &str, topic: &str) -> bool {
        let below = topic
            .strip_prefix(&self.root)
            .and_then(|rest| rest.strip_prefix("/c/"))
            .and_then(|rest| rest.strip_prefix(client))
            .and_then(|rest| rest.strip_prefix('/'));
        topic.len() <= REPLY_TOPIC_MAX
            && below.unwrap_or(topic).split('/').all(|level| !level.is_empty())
            && !topic.chars().any(|character| matches!(character, '+' | '#') || character.is_control())
            && (below.is_some() || self.replies.iter().any(|filter| matches(filter, topic)))
    }
}

/// Whether a topic filter matches a topic.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", Some(_)) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Reads the node's name out of the topic of a card.
pub fn node_of_info<'t>(root: &str, topic: &'t str) -> Option<&'t str> {
    let node = topic.strip_prefix(root.trim_end_matches('/'))?.strip_prefix("/node/")?.strip_suffix("/info")?;
    is_name(node).then_some(node)
}

/// Whether a filter is for orders: they are for now, and one that a broker kept while nobody was here would stop a node that
/// has just been started.
pub fn is_control_filter(filter: &str) -> bool {
    filter.ends_with("/control/+/+")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topics() -> Topics {
        Topics::new("moed/v1", "hall")
    }

    #[test]
    fn names_are_built_as_the_contract_writes_them() {
        let topics = topics();
        assert_eq!(topics.available(), "moed/v1/node/hall/available");
        assert_eq!(topics.reply("lamp", "7"), "moed/v1/c/lamp/r/7");
        assert_eq!(
            topics.filters(),
            [
                "moed/v1/node/hall/c/+/request",
                "moed/v1/node/hall/c/+/cancel",
                "moed/v1/node/hall/c/+/get",
                "moed/v1/node/hall/c/+/ack",
                "moed/v1/node/hall/available",
            ]
        );
    }

    #[test]
    fn foreign_and_longer_topics_are_not_ours() {
        for topic in [
            "moed/v1/node/hall2/c/lamp/request",
            "moed/v1/node/hall/c/lamp/request/more",
            "moed/v1/node/hall/c/lamp",
            "moed/v1/node/hall/c//request",
            "moed/v1/node/hall/c/la mp/request",
            "moed/v1/node/hall/c/lamp/format",
            "moed/v2/node/hall/available",
            "",
        ] {
            assert_eq!(topics().parse(topic), None, "{topic}");
        }
        assert_eq!(topics().parse("moed/v1/node/hall/available"), Some(Incoming::Available));
    }

    #[test]
    fn a_member_reads_its_pool_and_no_other() {
        let member = topics().in_pool("house");
        assert_eq!(member.pool_filter(), "$share/moed.house/moed/v1/pool/house/c/+/request");
        assert_eq!(member.parse("moed/v1/pool/house/c/lamp/request"), Some(Incoming::Pool { client: "lamp" }));
        for topic in
            ["moed/v1/pool/house2/c/lamp/request", "moed/v1/pool/house/c/lamp/cancel", "moed/v1/pool/house/c//request"]
        {
            assert_eq!(member.parse(topic), None, "{topic}");
        }
        assert_eq!(topics().parse("moed/v1/pool//c/lamp/request"), None, "a member of no pool");
    }

    #[test]
    fn an_answer_stays_strictly_below_its_client() {
        for good in ["moed/v1/c/lamp/r/1", "moed/v1/c/lamp/x", "moed/v1/c/lamp/deep/er/still"] {
            assert!(topics().may_reply("lamp", good), "{good}");
        }
        let long = format!("moed/v1/c/lamp/{}", "x".repeat(REPLY_TOPIC_MAX));
        for bad in [
            "moed/v1/c/lamp",
            "moed/v1/c/lamp/",
            "moed/v1/c/lamp2/r/1",
            "moed/v1/c/lamp//r",
            "moed/v1/c/lamp/r/",
            "moed/v1/c/lamp/+",
            "moed/v1/c/lamp/r#",
            "moed/v1/c/lamp/a\0b",
            "moed/v1/node/hall/available",
            "homeassistant/status",
            "",
            &long,
        ] {
            assert!(!topics().may_reply("lamp", bad), "{bad}");
        }
    }

    #[test]
    fn an_answer_goes_elsewhere_only_where_the_operator_allows_it() {
        let topics = topics().answering(&["site/answers/#".to_owned(), "panel/+/text".to_owned()]);
        for good in ["site/answers/1", "site/answers/a/b", "panel/7/text", "moed/v1/c/lamp/x"] {
            assert!(topics.may_reply("lamp", good), "{good}");
        }
        for bad in ["site/answers", "site/answers/", "site/answers/+", "panel/7/8/text", "panel/7", "site/other/1"] {
            assert!(!topics.may_reply("lamp", bad), "{bad}");
        }
    }

    #[test]
    fn an_order_is_read_out_of_its_topic() {
        let topics = topics();
        assert_eq!(topics.read_control("moed/v1/node/hall/control/ops/drain"), Some(("ops", "drain")));
        for topic in [
            "moed/v1/node/hall2/control/ops/drain",
            "moed/v1/node/hall/control/ops",
            "moed/v1/node/hall/control/ops/drain/now",
            "moed/v1/node/hall/control//drain",
            "moed/v1/node/hall/c/ops/drain",
        ] {
            assert_eq!(topics.read_control(topic), None, "{topic}");
        }
    }

    #[test]
    fn the_node_is_found_in_its_card() {
        assert_eq!(node_of_info("moed/v1", "moed/v1/node/hall/info"), Some("hall"));
        assert_eq!(node_of_info("moed/v1", "moed/v1/node/a/b/info"), None);
    }

    proptest! {
        #[test]
        fn what_is_built_is_parsed_back(node in "[A-Za-z0-9_.-]{1,64}", client in "[A-Za-z0-9_.-]{1,64}", id in "[A-Za-z0-9_.-]{1,64}") {
            let topics = Topics::new("moed/v1", &node);
            for verb in Verb::ALL {
                let topic = topics.verb(&client, verb);
                prop_assert_eq!(topics.parse(&topic), Some(Incoming::Client { client: &client, verb }));
            }
            prop_assert!(topics.may_reply(&client, &topics.reply(&client, &id)));
        }

        #[test]
        fn no_topic_makes_the_parser_fall(topic in "\\PC{0,80}") {
            let _parsed_or_not = topics().parse(&topic);
            if topics().may_reply("lamp", &topic) {
                prop_assert!(topic.starts_with("moed/v1/c/lamp/"));
            }
        }
    }
}
