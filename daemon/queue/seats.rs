//! How many jobs a caller has in the house, waiting and running: so that one caller cannot fill it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::fault::{Code, Fault, Kind};
use crate::job::Origin;

/// Jobs by caller. A caller with none takes no room, so this is bounded by the jobs there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats {
    taken: Arc<Mutex<HashMap<Caller, usize>>>,
}

type Caller = (&'static str, String);

/// One job's seat; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    caller: Caller,
}

impl Seats {
    /// A seat for one more job of this caller, of whom at most `most` may be here; 0: any number.
    pub(super) fn take(&self, origin: &Origin, most: usize) -> Result<Seat, Fault> {
        let caller = (origin.transport.name(), origin.client.clone());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = taken.get(&caller).copied().unwrap_or(0);
        if most > 0 && jobs >= most {
            let message = format!("`{}` has {jobs} requests waiting or running, limit {most}", origin.client);
            return Err(Fault::new(Kind::Busy, Code::QuotaExceeded, message).hint("the limit is `queue.caller_max`"));
        }
        taken.insert(caller.clone(), jobs + 1);
        drop(taken);
        Ok(Seat { seats: self.clone(), caller })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.caller) {
            Some(jobs) if *jobs > 1 => *jobs -= 1,
            _ => drop(taken.remove(&self.caller)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Transport;

    #[test]
    fn a_caller_has_as_many_jobs_as_it_may_and_others_are_not_concerned() {
        let seats = Seats::default();
        let origin = |client: &str| Origin { transport: Transport::Mqtt, client: client.into() };
        let first = seats.take(&origin("lamp"), 2).unwrap();
        let _second = seats.take(&origin("lamp"), 2).unwrap();
        let fault = seats.take(&origin("lamp"), 2).unwrap_err();
        assert_eq!(fault.code, Code::QuotaExceeded);
        assert!(fault.message.contains("`lamp` has 2") && fault.message.contains("limit 2"), "{fault}");
        let other = seats.take(&origin("door"), 2).unwrap();
        drop(first);
        assert!(seats.take(&origin("lamp"), 2).is_ok());
        drop(other);
        assert_eq!(seats.taken.lock().unwrap().len(), 1, "who has none is forgotten");
        let many: Vec<Seat> = (0..100).map(|_| seats.take(&origin("free"), 0).unwrap()).collect();
        assert_eq!(many.len(), 100);
    }
}
