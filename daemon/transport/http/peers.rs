//! Who is on the other end of the socket, and what they may: ask at all, and give orders.
//!
//! The kernel vouches for user and group of a peer (`SO_PEERCRED`); names and further groups come from `/etc/passwd` and
//! `/etc/group`, so a user of a directory service is named by number. Who may open the socket's file at all is the file's
//! group and mode.

use std::path::Path;

use crate::config;
use crate::fault::Fault;

/// What starts a rule that names a group.
const GROUP: char = '@';

/// Who is on the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub user: u32,
    /// The group that the process runs in; further ones are looked up.
    pub group: u32,
}

impl Peer {
    /// The name in quotas, logs and metrics.
    pub(super) fn label(self) -> String {
        format!("uid:{}", self.user)
    }

    /// Of these groups those that it belongs to.
    pub(super) fn groups_among(self, groups: &[u32]) -> Vec<u32> {
        self.belongs(groups, &Accounts::of_machine)
    }

    /// The files are read only where a group may matter: they are small, and a membership that was just given counts.
    fn belongs(self, groups: &[u32], accounts: &dyn Fn() -> Accounts) -> Vec<u32> {
        if groups.iter().all(|group| *group == self.group) {
            return groups.to_vec();
        }
        let member_of = accounts().groups_of(self.user);
        groups.iter().copied().filter(|group| *group == self.group || member_of.contains(group)).collect()
    }
}

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    User(u32),
    Group(u32),
}

/// Who may what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// Beside root and the daemon's own user.
    admins: Vec<Rule>,
    /// Empty: whoever may open the socket's file.
    peers: Vec<Rule>,
}

impl Rules {
    /// Reads the lists; every name that nobody has is a fault.
    pub(super) fn read(settings: &config::Socket) -> Result<Self, Fault> {
        let accounts = Accounts::of_machine();
        let mut faults = Vec::new();
        let mut list = |key: &str, entries: &[String]| -> Vec<Rule> {
            let rules =
                entries.iter().map(|entry| accounts.rule(entry).map_err(|reason| format!("`socket.{key}`: {reason}")));
            rules.filter_map(|rule| rule.map_err(|fault| faults.push(fault)).ok()).collect()
        };
        let rules = Self { admins: list("admins", &settings.admins), peers: list("peers", &settings.peers) };
        if faults.is_empty() {
            return Ok(rules);
        }
        Err(Fault::config(faults.join("\n")).hint("a user of a directory service is named by number"))
    }

    /// Whether this peer may give orders.
    pub(super) fn may_order(&self, peer: Peer) -> bool {
        let owner = rustix::process::geteuid().as_raw();
        peer.user == 0 || peer.user == owner || covers(&self.admins, peer, &Accounts::of_machine)
    }

    /// Whether this peer may ask.
    pub(super) fn may_ask(&self, peer: Peer) -> bool {
        self.peers.is_empty() || covers(&self.peers, peer, &Accounts::of_machine) || self.may_order(peer)
    }
}

fn covers(rules: &[Rule], peer: Peer, accounts: &dyn Fn() -> Accounts) -> bool {
    let plain = |rule: &Rule| match *rule {
        Rule::User(user) => user == peer.user,
        Rule::Group(group) => group == peer.group,
    };
    if rules.iter().any(plain) {
        return true;
    }
    let groups: Vec<u32> =
        rules.iter().filter_map(|rule| if let Rule::Group(group) = *rule { Some(group) } else { None }).collect();
    !peer.belongs(&groups, accounts).is_empty()
}

/// A group's number, by name or as written.
pub(super) fn group_id(name: &str) -> Result<u32, String> {
    Accounts::of_machine().group(name)
}

/// The machine's users and groups.
#[derive(Default)]
struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    fn of_machine() -> Self {
        let read = |path: &str| {
            std::fs::read_to_string(Path::new(path)).unwrap_or_else(|error| {
                // A machine without the file has numbers only.
                tracing::debug!(path, %error, "accounts cannot be read");
                String::new()
            })
        };
        Self { passwd: read("/etc/passwd"), group: read("/etc/group") }
    }

    fn rule(&self, entry: &str) -> Result<Rule, String> {
        match entry.strip_prefix(GROUP) {
            Some(group) => self.group(group).map(Rule::Group),
            None => number(&self.passwd, entry).map(Rule::User).ok_or_else(|| format!("there is no user `{entry}`")),
        }
    }

    fn group(&self, name: &str) -> Result<u32, String> {
        number(&self.group, name).ok_or_else(|| format!("there is no group `{name}`"))
    }

    /// A user's login group, and those of which it is a listed member.
    fn groups_of(&self, user: u32) -> Vec<u32> {
        let is_user = |line: &&str| line.split(':').nth(2).and_then(|field| field.parse().ok()) == Some(user);
        let Some(line) = self.passwd.lines().find(is_user) else { return Vec::new() };
        let mut fields = line.split(':');
        let (Some(name), login) = (fields.next(), fields.nth(2)) else { return Vec::new() };
        let lists =
            |line: &&str| line.split(':').nth(3).is_some_and(|members| members.split(',').any(|member| member == name));
        let listed = self.group.lines().filter(lists).filter_map(|line| line.split(':').nth(2));
        login.into_iter().chain(listed).filter_map(|group| group.parse().ok()).collect()
    }
}

/// The third field of the line that begins with this name; a number stands for itself.
fn number(accounts: &str, name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    accounts
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| *found == name)?
        .1
        .split(':')
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nann:x:1001:100::/:/bin/sh\nbob:x:1002:100::/:/bin/sh\n".into(),
            group: "root:x:0:\nusers:x:100:\nops:x:27:bob,carol\n".into(),
        }
    }

    #[test]
    fn names_numbers_and_groups_are_read_and_what_nobody_has_is_said() {
        assert_eq!(accounts().rule("ann"), Ok(Rule::User(1001)));
        assert_eq!(accounts().rule("77"), Ok(Rule::User(77)));
        assert_eq!(accounts().rule("@ops"), Ok(Rule::Group(27)));
        assert_eq!(accounts().rule("@12"), Ok(Rule::Group(12)));
        assert_eq!(accounts().rule("carol"), Err("there is no user `carol`".to_owned()));
        let settings = config::Socket {
            admins: vec!["no-such-user".into()],
            peers: vec!["@no-such-group".into(), "0".into()],
            ..config::Socket::default()
        };
        let fault = Rules::read(&settings).unwrap_err();
        assert!(fault.message.contains("`socket.admins`: there is no user `no-such-user`"), "{fault}");
        assert!(fault.message.contains("`socket.peers`: there is no group `no-such-group`"), "{fault}");
    }

    #[test]
    fn a_member_is_covered_by_its_listed_group_and_by_the_one_it_runs_in() {
        let rules = [Rule::Group(27)];
        let covered = |user, group| covers(&rules, Peer { user, group }, &accounts);
        assert!(covered(1002, 100), "listed in /etc/group");
        assert!(covered(1001, 27), "runs in the group");
        assert!(!covered(1001, 100));
        assert!(!covered(4711, 100), "unknown to the machine");
    }

    #[test]
    fn of_the_groups_that_matter_those_it_runs_in_and_is_listed_in_are_a_peers_own() {
        let bob = Peer { user: 1002, group: 100 };
        assert_eq!(bob.belongs(&[5, 27, 100], &accounts), [27, 100]);
        let elsewhere = Peer { user: 1002, group: 5 };
        assert_eq!(elsewhere.belongs(&[5, 27, 100], &accounts), [5, 27, 100], "a login group is kept in another one");
        let nobody_reads = || -> Accounts { panic!("the files are read for nothing") };
        assert!(bob.belongs(&[], &nobody_reads).is_empty());
        assert_eq!(bob.belongs(&[100], &nobody_reads), [100]);
    }

    #[test]
    fn without_a_list_everybody_may_ask_and_only_root_and_the_daemons_user_may_order() {
        let stranger = Peer { user: 64_999, group: 64_999 };
        let rules = Rules::default();
        assert!(rules.may_ask(stranger) && !rules.may_order(stranger));
        assert!(rules.may_order(Peer { user: 0, group: 0 }));
        let rules = Rules { admins: vec![Rule::User(64_999)], peers: vec![Rule::User(5)] };
        assert!(rules.may_order(stranger) && rules.may_ask(stranger), "who may order may ask");
        assert!(!rules.may_ask(Peer { user: 6, group: 6 }) && rules.may_ask(Peer { user: 5, group: 6 }));
    }
}
