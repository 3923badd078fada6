//! What one caller may have of the house: requests and bytes a minute, jobs at a time, how urgent they may be. So that one
//! caller cannot fill it, and the others never notice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{self, Share};
use crate::fault::{Code, Fault, Kind};
use crate::job::{Job, Origin, Priority, Transport};

/// Callers that are remembered. One who has no job and has not asked for a while is forgotten first, which gives it a full
/// minute's worth again: no more than it would have after that minute.
const CALLERS_MAX: usize = 4096;
/// When a caller with too many jobs may ask again. A guess on the safe side: an answer takes about this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Caller = (Transport, String);

/// Who has taken how much. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Quotas {
    book: Arc<Mutex<Book>>,
}

#[derive(Debug)]
struct Book {
    rules: config::Quota,
    accounts: HashMap<Caller, Account>,
}

#[derive(Debug)]
struct Account {
    /// Of the caller at its last request.
    groups: Vec<u32>,
    jobs: usize,
    requests: Bucket,
    bytes: Bucket,
    seen: Instant,
}

/// What is left of a minute's worth.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// What one caller may; 0: as much as there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    requests: u64,
    bytes: u64,
    jobs: usize,
    priority: Priority,
}

/// A refusal, and which bound it was.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) bound: &'static str,
    pub(super) fault: Fault,
}

/// One job's place among its caller's; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    quotas: Quotas,
    caller: Caller,
}

impl Quotas {
    pub(super) fn new(rules: config::Quota) -> Self {
        Self { book: Arc::new(Mutex::new(Book { rules, accounts: HashMap::new() })) }
    }

    /// From now on these; what callers have used stays used.
    pub(super) fn change(&self, rules: config::Quota) {
        self.book().rules = rules;
    }

    /// The groups that have bounds of their own.
    pub(super) fn groups(&self) -> Vec<u32> {
        // `config::check` has seen to it that they are numbers.
        self.book().rules.gid.keys().filter_map(|group| group.parse().ok()).collect()
    }

    /// A place for one more job of this caller. A job that was accepted before is not counted again, only seated.
    pub(super) fn take(&self, job: &Job, now: Instant) -> Result<Seat, Over> {
        let mut book = self.book();
        let bounds = book.bounds(&job.origin, &job.groups);
        let caller = (job.origin.transport, job.origin.client.clone());
        if !book.accounts.contains_key(&caller) {
            book.make_room();
        }
        let account = book.accounts.entry(caller.clone()).or_insert_with(|| Account::new(&bounds, now));
        account.groups.clone_from(&job.groups);
        let taken = if job.accepted { Ok(()) } else { account.charge(&bounds, job, now) };
        match taken {
            Ok(()) => account.jobs += 1,
            Err(over) => {
                book.tidy(&caller);
                return Err(over);
            }
        }
        drop(book);
        Ok(Seat { quotas: self.clone(), caller })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change is whole before the lock is let go.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut book = self.quotas.book();
        if let Some(account) = book.accounts.get_mut(&self.caller) {
            account.jobs = account.jobs.saturating_sub(1);
        }
        book.tidy(&self.caller);
    }
}

impl Book {
    fn bounds(&self, origin: &Origin, groups: &[u32]) -> Bounds {
        let rules = &self.rules;
        let own = match origin.transport {
            Transport::Mqtt => rules.client.get(&origin.client),
            Transport::Http => origin.client.strip_prefix("uid:").and_then(|user| rules.uid.get(user)),
        };
        let of_groups: Vec<&Share> = groups.iter().filter_map(|group| rules.gid.get(&group.to_string())).collect();
        Bounds {
            requests: said(own, &of_groups, |share| share.requests_per_minute, |most| wide(*most))
                .unwrap_or(rules.requests_per_minute),
            bytes: said(own, &of_groups, |share| share.bytes_per_minute, |most| wide(most.0))
                .unwrap_or(rules.bytes_per_minute)
                .0,
            jobs: said(own, &of_groups, |share| share.concurrent, |most| wide(*most as u64))
                .unwrap_or(rules.concurrent),
            priority: said(own, &of_groups, |share| share.priority.as_deref().map(urgency), |most| *most)
                .unwrap_or_else(|| urgency(&rules.priority)),
        }
    }

    /// Forgets a caller of whom nothing has to be remembered.
    fn tidy(&mut self, caller: &Caller) {
        let unbounded = |bounds: Bounds| bounds.requests == 0 && bounds.bytes == 0;
        let Some(account) = self.accounts.get(caller) else { return };
        let origin = Origin { transport: caller.0, client: caller.1.clone() };
        if account.jobs == 0 && unbounded(self.bounds(&origin, &account.groups)) {
            self.accounts.remove(caller);
        }
    }

    /// Forgets whoever has no job and was silent for longest. There are far fewer jobs than places here.
    fn make_room(&mut self) {
        if self.accounts.len() < CALLERS_MAX {
            return;
        }
        let idle = self.accounts.iter().filter(|(_, account)| account.jobs == 0);
        if let Some(caller) = idle.min_by_key(|(_, account)| account.seen).map(|(caller, _)| caller.clone()) {
            self.accounts.remove(&caller);
        }
    }
}

impl Account {
    fn new(bounds: &Bounds, now: Instant) -> Self {
        let full = |most: u64| Bucket { left: count(most), at: now };
        Self { groups: Vec::new(), jobs: 0, requests: full(bounds.requests), bytes: full(bounds.bytes), seen: now }
    }

    /// Takes what the job costs, all of it or nothing.
    fn charge(&mut self, bounds: &Bounds, job: &Job, now: Instant) -> Result<(), Over> {
        self.seen = now;
        let who = &job.origin.client;
        if job.priority > bounds.priority {
            let (asked, most) = (job.priority.name(), bounds.priority.name());
            let message = format!("`{who}` asks with priority `{asked}`, its highest is `{most}`");
            let fault = Fault::new(Kind::Caller, Code::Forbidden, message).param("priority");
            return Err(Over { bound: "priority", fault: fault.hint("the ceiling is `quota.priority`") });
        }
        if bounds.jobs > 0 && self.jobs >= bounds.jobs {
            let message = format!("`{who}` has {} requests waiting or running, limit {}", self.jobs, bounds.jobs);
            return Err(over("concurrent", message, RETRY_AFTER));
        }
        let bytes = job.bytes as u64;
        if bounds.bytes > 0 && bytes > bounds.bytes {
            let message = format!("the request has {bytes} bytes, `{who}` may send {} a minute", bounds.bytes);
            let fault = Fault::new(Kind::Caller, Code::TooLarge, message);
            return Err(Over { bound: "bytes", fault: fault.hint("the limit is `quota.bytes_per_minute`") });
        }
        if let Some(wait) = self.requests.wait(bounds.requests, 1, now) {
            let message = format!("`{who}` has made its {} requests a minute", bounds.requests);
            return Err(over("requests", message, wait));
        }
        if let Some(wait) = self.bytes.wait(bounds.bytes, bytes, now) {
            let message = format!("`{who}` has sent its {} bytes a minute, {bytes} more do not fit", bounds.bytes);
            return Err(over("bytes", message, wait));
        }
        self.requests.take(bounds.requests, 1);
        self.bytes.take(bounds.bytes, bytes);
        Ok(())
    }
}

/// One setting: what the caller's own share says, else the widest of what those of its groups say.
fn said<T, K: Ord>(
    own: Option<&Share>,
    of_groups: &[&Share],
    setting: impl Fn(&Share) -> Option<T>,
    width: impl Fn(&T) -> K,
) -> Option<T> {
    let widest = || of_groups.iter().filter_map(|share| setting(share)).max_by_key(|value| width(value));
    own.and_then(&setting).or_else(widest)
}

/// How much a number allows: 0 is no bound.
fn wide(most: u64) -> u64 {
    most.wrapping_sub(1)
}

fn urgency(name: &str) -> Priority {
    // `config::check` has seen to it that it is one.
    Priority::from_name(name).unwrap_or(Priority::Alarm)
}

fn over(bound: &'static str, message: String, retry_after: Duration) -> Over {
    let fault = Fault::new(Kind::Busy, Code::QuotaExceeded, message).retry_after(retry_after);
    Over { bound, fault: fault.hint("the limits are those of `[quota]`") }
}

impl Bucket {
    /// Fills up by the time that has passed, and says how long until it holds this much; `None`: now.
    fn wait(&mut self, most: u64, wanted: u64, now: Instant) -> Option<Duration> {
        if most == 0 {
            return None;
        }
        let a_second = count(most) / 60.0;
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        // Also where the limit was lowered meanwhile.
        self.left = (self.left + passed * a_second).min(count(most));
        self.at = now;
        let missing = count(wanted) - self.left;
        // A hair's breadth is no reason to come twice.
        (missing > 1e-9).then(|| Duration::from_secs_f64(missing / a_second) + Duration::from_millis(1))
    }

    fn take(&mut self, most: u64, wanted: u64) {
        if most > 0 {
            self.left -= count(wanted);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody counts 2^53 bytes in a minute")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Quota, Share, Size};
    use crate::job::{Message, Role};

    fn job(transport: Transport, client: &str) -> Job {
        Job::new(Origin { transport, client: client.to_owned() }, vec![Message::text(Role::User, "hi")])
    }

    fn lamp() -> Job {
        job(Transport::Mqtt, "lamp")
    }

    #[test]
    fn a_caller_has_as_many_jobs_as_it_may_and_others_are_not_concerned() {
        let quotas = Quotas::new(Quota { concurrent: 2, ..Quota::default() });
        let now = Instant::now();
        let first = quotas.take(&lamp(), now).unwrap();
        let _second = quotas.take(&lamp(), now).unwrap();
        let over = quotas.take(&lamp(), now).unwrap_err();
        assert_eq!((over.bound, over.fault.code), ("concurrent", Code::QuotaExceeded));
        assert!(
            over.fault.message.contains("`lamp` has 2") && over.fault.message.contains("limit 2"),
            "{}",
            over.fault
        );
        let other = quotas.take(&job(Transport::Mqtt, "door"), now).unwrap();
        // Accepted before: it has its place whatever else.
        let _kept = quotas.take(&Job { accepted: true, ..lamp() }, now).unwrap();
        drop(first);
        assert!(quotas.take(&lamp(), now).is_err(), "three less one are two");
        drop(other);
        assert_eq!(quotas.book().accounts.len(), 1, "of whom nothing has to be remembered is forgotten");
    }

    #[test]
    fn requests_a_minute_come_back_with_the_time_that_is_told() {
        let quotas = Quotas::new(Quota { requests_per_minute: 3, ..Quota::default() });
        let now = Instant::now();
        for _ in 0..3 {
            quotas.take(&lamp(), now).unwrap();
        }
        let over = quotas.take(&lamp(), now).unwrap_err();
        assert_eq!((over.bound, over.fault.code.status()), ("requests", 429));
        let wait = over.fault.retry_after.unwrap();
        assert!(wait > Duration::from_secs(19) && wait < Duration::from_secs(21), "{wait:?}");
        assert!(quotas.take(&lamp(), now + wait).is_ok(), "who waits as told is served");
        assert!(quotas.take(&lamp(), now + wait).is_err());
        assert!(quotas.take(&job(Transport::Http, "lamp"), now).is_ok(), "the same name on another way in is another");
    }

    #[test]
    fn bytes_a_minute_are_counted_and_what_never_fits_is_too_large() {
        let quotas = Quotas::new(Quota { bytes_per_minute: Size(100), ..Quota::default() });
        let now = Instant::now();
        let of = |bytes: usize| Job { bytes, ..lamp() };
        quotas.take(&of(60), now).unwrap();
        let over = quotas.take(&of(60), now).unwrap_err();
        assert_eq!((over.bound, over.fault.code), ("bytes", Code::QuotaExceeded));
        assert!(quotas.take(&of(60), now + over.fault.retry_after.unwrap()).is_ok());
        let over = quotas.take(&of(101), now).unwrap_err();
        assert_eq!((over.fault.code, over.fault.retry_after), (Code::TooLarge, None));
        assert!(over.fault.message.contains("101 bytes") && over.fault.message.contains("100 a minute"));
    }

    #[test]
    fn a_caller_of_its_own_has_its_own_bounds_and_a_ceiling_is_kept() {
        let mut rules = Quota { concurrent: 1, priority: "interactive".to_owned(), ..Quota::default() };
        let many = Share { concurrent: Some(0), priority: Some("alarm".to_owned()), ..Share::default() };
        rules.client.insert("door".to_owned(), many.clone());
        rules.uid.insert("7".to_owned(), many);
        let quotas = Quotas::new(rules);
        let now = Instant::now();
        let seats: Vec<_> = (0..5).map(|_| quotas.take(&job(Transport::Mqtt, "door"), now).unwrap()).collect();
        assert_eq!(seats.len(), 5);
        let alarm = |transport, client: &str| Job { priority: Priority::Alarm, ..job(transport, client) };
        assert!(quotas.take(&alarm(Transport::Http, "uid:7"), now).is_ok());
        let over = quotas.take(&alarm(Transport::Http, "uid:8"), now).unwrap_err();
        assert_eq!((over.bound, over.fault.code), ("priority", Code::Forbidden));
        assert!(quotas.take(&job(Transport::Http, "uid:8"), now).is_ok());
        quotas.change(Quota::default());
        assert!(quotas.take(&alarm(Transport::Http, "uid:8"), now).is_ok());
    }

    #[test]
    fn a_group_bounds_each_of_its_members_the_widest_counts_and_the_users_own_comes_first() {
        let mut rules = Quota { concurrent: 9, requests_per_minute: 1, ..Quota::default() };
        let share = |requests, concurrent: Option<usize>, priority: Option<&str>| Share {
            requests_per_minute: requests,
            concurrent,
            priority: priority.map(str::to_owned),
            ..Share::default()
        };
        rules.gid.insert("100".to_owned(), share(Some(50), Some(2), Some("background")));
        rules.gid.insert("27".to_owned(), share(Some(0), Some(1), Some("interactive")));
        rules.uid.insert("7".to_owned(), share(None, Some(4), None));
        let quotas = Quotas::new(rules);
        assert_eq!(quotas.groups(), [100, 27]);
        let bounds = |client: &str, groups: &[u32]| {
            let origin = Origin { transport: Transport::Http, client: client.to_owned() };
            let bounds = quotas.book().bounds(&origin, groups);
            (bounds.requests, bounds.jobs, bounds.priority)
        };
        assert_eq!(bounds("uid:8", &[]), (1, 9, Priority::Alarm));
        assert_eq!(bounds("uid:8", &[5]), (1, 9, Priority::Alarm));
        assert_eq!(bounds("uid:8", &[100]), (50, 2, Priority::Background));
        assert_eq!(bounds("uid:8", &[100, 27]), (0, 2, Priority::Interactive), "0 is without a bound, the widest");
        assert_eq!(bounds("uid:7", &[100, 27]), (0, 4, Priority::Interactive));

        // Each member for itself.
        let of =
            |client: &str| Job { groups: vec![100], priority: Priority::Background, ..job(Transport::Http, client) };
        let now = Instant::now();
        let seats: Vec<_> = ["uid:8", "uid:8", "uid:9"].map(|client| quotas.take(&of(client), now).unwrap()).into();
        assert_eq!(quotas.take(&of("uid:8"), now).unwrap_err().bound, "concurrent");
        drop(seats);
        assert_eq!(quotas.book().accounts.len(), 2, "what they asked a minute is remembered");
    }

    #[test]
    fn the_book_has_a_last_page_and_who_works_keeps_a_place_in_it() {
        let quotas = Quotas::new(Quota { requests_per_minute: 1, ..Quota::default() });
        let now = Instant::now();
        let busy = quotas.take(&lamp(), now).unwrap();
        for number in 0..CALLERS_MAX + 50 {
            let later = now + Duration::from_millis(number as u64);
            quotas.take(&job(Transport::Mqtt, &format!("c{number}")), later).unwrap();
        }
        assert_eq!(quotas.book().accounts.len(), CALLERS_MAX);
        assert!(quotas.take(&lamp(), now).is_err(), "the one with a job is remembered");
        drop(busy);
    }

    proptest! {
        /// Whatever comes when: no more than a full bucket and what has flowed in since.
        #[test]
        fn nobody_gets_more_than_a_burst_and_its_rate(gaps in prop::collection::vec(0_u64..5_000, 1..300)) {
            let quotas = Quotas::new(Quota { requests_per_minute: 30, ..Quota::default() });
            let start = Instant::now();
            let (mut now, mut taken) = (start, 0_u32);
            for gap in gaps {
                now += Duration::from_millis(gap);
                taken += u32::from(quotas.take(&lamp(), now).is_ok());
            }
            let most = 30.0 + (now - start).as_secs_f64() * 0.5;
            prop_assert!(f64::from(taken) <= most + 1e-6, "{taken} of {most}");
        }
    }
}
