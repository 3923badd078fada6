//! Who waits, and who is next: the most urgent first, then whoever has waited longest.
//!
//! Urgency alone would let a busy site starve its background work, so a background job that has waited for long counts as an
//! interactive one. An alarm is overtaken by nobody. Pure: time comes from the caller.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::Room;
use crate::engine::sequence::Task;
use crate::job::{JobId, Priority};

/// Jobs that wait, one list a priority, each in order of arrival.
pub(super) struct Line {
    /// In the order of [`Priority::ALL`].
    lists: [VecDeque<Task>; 3],
    /// A background job that has waited this long counts as interactive.
    aging: Duration,
}

impl Line {
    pub(super) fn new(aging: Duration) -> Self {
        Self { lists: Default::default(), aging }
    }

    /// From now on background jobs count as interactive after this long.
    pub(super) fn age(&mut self, aging: Duration) {
        self.aging = aging;
    }

    pub(super) fn len(&self) -> usize {
        self.lists.iter().map(VecDeque::len).sum()
    }

    /// Jobs that count against one more of this priority: for an alarm the waiting alarms, so that no crowd keeps it out; for
    /// the others the others.
    pub(super) fn rivals(&self, priority: Priority) -> usize {
        let alarms = self.lists[place(Priority::Alarm)].len();
        if priority == Priority::Alarm { alarms } else { self.len() - alarms }
    }

    /// Jobs that wait, by priority.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Priority, usize)> {
        Priority::ALL.into_iter().zip(self.lists.iter().map(VecDeque::len))
    }

    /// Puts a job at the end of its list. Says how many are before it.
    pub(super) fn push(&mut self, task: Task) -> usize {
        let place = place(task.priority);
        let ahead = self.lists[..=place].iter().map(VecDeque::len).sum();
        self.lists[place].push_back(task);
        ahead
    }

    /// Takes the next job that may start in this room.
    pub(super) fn take(&mut self, room: Room, now: Instant) -> Option<Task> {
        let next = self.next(room, now)?;
        let list = &mut self.lists[place(next)];
        let front = list.front()?;
        // One that must run alone holds up those behind it, or it would never find the engine empty.
        let alone = front.alone && room.running > 0;
        if alone || front.priority < room.least { None } else { list.pop_front() }
    }

    fn next(&self, room: Room, now: Instant) -> Option<Priority> {
        let waits_since = |priority| self.lists[place(priority)].front().map(|task: &Task| task.submitted);
        if waits_since(Priority::Alarm).is_some() {
            return Some(Priority::Alarm);
        }
        // Aged work that is kept out must not keep out others.
        let background = waits_since(Priority::Background).filter(|_| room.least == Priority::Background);
        match (waits_since(Priority::Interactive), background) {
            (Some(interactive), Some(background)) => {
                let aged = now.saturating_duration_since(background) >= self.aging && background < interactive;
                Some(if aged { Priority::Background } else { Priority::Interactive })
            }
            (Some(_), None) => Some(Priority::Interactive),
            (None, Some(_)) => Some(Priority::Background),
            (None, None) => None,
        }
    }

    /// Takes a job out, wherever it stands.
    pub(super) fn remove(&mut self, id: JobId) -> Option<Task> {
        self.lists.iter_mut().find_map(|list| {
            let index = list.iter().position(|task| task.id == id)?;
            list.remove(index)
        })
    }

    /// Takes everybody out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Task> {
        self.lists.iter_mut().flat_map(|list| list.drain(..))
    }
}

fn place(priority: Priority) -> usize {
    match priority {
        Priority::Alarm => 0,
        Priority::Interactive => 1,
        Priority::Background => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prefix::Scope;
    use crate::job::{CancelFlag, Sampling};

    const AGING: Duration = Duration::from_secs(10);

    fn task(priority: Priority, submitted: Instant) -> Task {
        Task {
            id: JobId::next(),
            prompt: vec![1],
            max_tokens: 1,
            min_tokens: 0,
            ignore_eos: false,
            sampling: Sampling::default(),
            seed: 0,
            stop: Vec::new(),
            deadline: None,
            submitted,
            cancel: CancelFlag::default(),
            priority,
            exact: false,
            scope: Scope::default(),
            guide: None,
            alone: false,
            weigh: false,
            whole: false,
            events: tokio::sync::mpsc::channel(1).0,
        }
    }

    fn order(line: &mut Line, now: Instant) -> Vec<&'static str> {
        let room = Room { running: 0, least: Priority::Background };
        std::iter::from_fn(|| line.take(room, now).map(|task| task.priority.name())).collect()
    }

    #[test]
    fn the_urgent_go_first_and_background_work_is_not_starved() {
        let start = Instant::now();
        let mut line = Line::new(AGING);
        assert_eq!(line.push(task(Priority::Background, start)), 0);
        assert_eq!(line.push(task(Priority::Interactive, start + Duration::from_secs(1))), 0);
        assert_eq!(line.push(task(Priority::Alarm, start + Duration::from_secs(2))), 0);
        assert_eq!(line.push(task(Priority::Background, start + Duration::from_secs(3))), 3);
        assert_eq!(
            order(&mut line, start + Duration::from_secs(3)),
            ["alarm", "interactive", "background", "background"]
        );
        line.push(task(Priority::Background, start));
        line.push(task(Priority::Interactive, start + Duration::from_secs(1)));
        line.push(task(Priority::Alarm, start + Duration::from_secs(20)));
        assert_eq!(order(&mut line, start + Duration::from_secs(20)), ["alarm", "background", "interactive"]);
    }

    #[test]
    fn room_for_alarms_alone_is_left_to_alarms() {
        let now = Instant::now();
        let mut line = Line::new(AGING);
        line.push(task(Priority::Interactive, now));
        let room = Room { running: 3, least: Priority::Alarm };
        assert!(line.take(room, now).is_none());
        line.push(task(Priority::Alarm, now));
        assert!(line.take(room, now).is_some_and(|task| task.priority == Priority::Alarm));
        assert_eq!(line.len(), 1);
    }

    #[test]
    fn aged_background_work_that_is_kept_out_keeps_nobody_else_out() {
        let start = Instant::now();
        let mut line = Line::new(AGING);
        line.push(task(Priority::Background, start));
        line.push(task(Priority::Interactive, start + Duration::from_secs(1)));
        let room = Room { running: 0, least: Priority::Interactive };
        let now = start + Duration::from_mins(1);
        assert!(line.take(room, now).is_some_and(|task| task.priority == Priority::Interactive));
        assert!(line.take(room, now).is_none());
        assert_eq!(line.len(), 1, "it waits");
    }
}
