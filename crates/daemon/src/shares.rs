//! Limits of each caller and of all callers: calls in flight, open streams, and bytes of incomplete messages.
//!
//! Each of the three has a total, a share for each caller, and a part of the total that only admins may take. Admins have
//! no share of their own: the total is their limit. Nothing queues: what does not fit is refused at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tonic::{Code, Status};

use crate::{caller::Caller, status::status};

/// A tenth of everything is left for admins, so that others cannot lock them out.
const KEPT_FOR_ADMINS: usize = 10;

/// How much there is of something.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// For all callers together.
    pub all: usize,
    /// For each caller that is no admin.
    pub each: usize,
}

impl Limit {
    /// What callers that are no admins may take together.
    pub(crate) fn without_kept(self) -> usize {
        let kept = if self.all < 2 {
            0
        } else {
            (self.all / KEPT_FOR_ADMINS).max(1)
        };
        self.all - kept
    }
}

/// The limits of one daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub calls: Limit,
    pub streams: Limit,
    pub bytes: Limit,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource {
    /// Unary handlers at work.
    Calls,
    Streams,
    /// Of messages that have begun to arrive.
    Bytes,
}

impl Resource {
    fn refused(self, limit: Limit, of_all: bool) -> Status {
        let (has, setting, reason) = match self {
            Resource::Calls => ("calls in flight", "max_in_flight", "MAX_IN_FLIGHT"),
            Resource::Streams => ("streams open", "max_open_streams", "MAX_OPEN_STREAMS"),
            Resource::Bytes => (
                "bytes of unfinished messages",
                "max_unfinished_bytes",
                "MAX_UNFINISHED_BYTES",
            ),
        };
        let message = if of_all {
            format!("this daemon has {} {has} already ([common] {setting})", limit.all)
        } else {
            format!("you have {} {has} already ([common] {setting}_per_caller)", limit.each)
        };
        status(Code::ResourceExhausted, message, reason)
    }
}

/// What one caller has taken; all its connections share it.
#[derive(Debug)]
pub(crate) struct Account {
    principal: Arc<str>,
    taken: [AtomicUsize; 3],
}

impl Account {
    pub fn is_of(&self, caller: &Caller) -> bool {
        Arc::ptr_eq(&self.principal, &caller.principal) || self.principal == caller.principal
    }
}

#[derive(Debug)]
pub(crate) struct Shares {
    limits: [Limit; 3],
    taken: [AtomicUsize; 3],
    // An account is dropped with the last call that uses it; its entry goes when the map is next tidied.
    accounts: Mutex<HashMap<Arc<str>, Weak<Account>>>,
}

/// Accounts in the map before it is tidied.
const TIDY_AT: usize = 1024;

impl Shares {
    pub fn new(limits: Limits) -> Self {
        Shares {
            limits: [limits.calls, limits.streams, limits.bytes],
            taken: Default::default(),
            accounts: Mutex::default(),
        }
    }

    pub fn account(&self, caller: &Caller) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(&caller.principal).and_then(Weak::upgrade) {
            return account;
        }
        if accounts.len() >= TIDY_AT {
            accounts.retain(|_, account| account.strong_count() > 0);
        }
        let account = Arc::new(Account {
            principal: caller.principal.clone(),
            taken: Default::default(),
        });
        accounts.insert(caller.principal.clone(), Arc::downgrade(&account));
        account
    }

    /// All of `count`, or nothing and the reason.
    pub fn take(&self, what: Resource, account: &Account, admin: bool, count: usize) -> Result<(), Status> {
        let (limit, all, own) = (
            self.limits[what as usize],
            &self.taken[what as usize],
            &account.taken[what as usize],
        );
        let most = if admin { limit.all } else { limit.without_kept() };
        if all.fetch_add(count, Ordering::AcqRel) + count > most {
            all.fetch_sub(count, Ordering::AcqRel);
            return Err(what.refused(limit, true));
        }
        if own.fetch_add(count, Ordering::AcqRel) + count > limit.each && !admin {
            own.fetch_sub(count, Ordering::AcqRel);
            all.fetch_sub(count, Ordering::AcqRel);
            return Err(what.refused(limit, false));
        }
        Ok(())
    }

    /// Returns how many are taken now.
    pub fn give_back(&self, what: Resource, account: &Account, count: usize) -> usize {
        account.taken[what as usize].fetch_sub(count, Ordering::AcqRel);
        self.taken[what as usize].fetch_sub(count, Ordering::AcqRel) - count
    }

    pub fn taken(&self, what: Resource) -> usize {
        self.taken[what as usize].load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, status::reason};

    fn shares() -> Shares {
        let limit = Limit { all: 10, each: 4 };
        Shares::new(Limits {
            calls: limit,
            streams: limit,
            bytes: limit,
        })
    }

    /// Attack: one user takes everything. Others and an admin still get theirs.
    #[test]
    fn a_caller_gets_its_share_and_the_last_tenth_is_for_admins() {
        let shares = shares();
        let account = |uid| shares.account(&Caller::of_uid(uid, Role::User));
        let (one, two, three, admin) = (account(1), account(2), account(3), account(0));
        let streams = |account: &Account, admin| shares.take(Resource::Streams, account, admin, 1);
        for _ in 0..4 {
            streams(&one, false).unwrap();
            streams(&two, false).unwrap();
        }
        let refused = streams(&one, false).unwrap_err();
        assert_eq!(reason(&refused).as_deref(), Some("MAX_OPEN_STREAMS"));
        assert!(refused.message().contains("max_open_streams_per_caller"), "{refused:?}");
        streams(&three, false).unwrap();
        let refused = streams(&three, false).unwrap_err();
        assert!(refused.message().starts_with("this daemon has 10"), "{refused:?}");
        streams(&admin, true).unwrap();
        assert!(streams(&admin, true).is_err(), "the total holds for everyone");
        assert_eq!(shares.give_back(Resource::Streams, &one, 1), 9);
        assert_eq!(shares.taken(Resource::Calls), 0);
        shares.take(Resource::Bytes, &one, false, 4).unwrap();
        shares.take(Resource::Bytes, &one, false, 1).unwrap_err();
        assert_eq!(shares.taken(Resource::Bytes), 4, "what was refused is not counted");
    }

    #[test]
    fn one_caller_has_one_account_until_it_is_gone() {
        let shares = shares();
        let caller = Caller::of_uid(1, Role::User);
        let first = shares.account(&caller);
        assert!(Arc::ptr_eq(&first, &shares.account(&caller)) && first.is_of(&caller));
        assert!(!first.is_of(&Caller::of_uid(2, Role::User)));
        drop(first);
        assert_eq!(shares.account(&caller).taken[0].load(Ordering::Relaxed), 0);
    }
}
