//! Who may keep a connection open: a listener has so many slots, a uid, token or address has its share of them, and the
//! last tenth is for admins.
//!
//! Who calls is known before a slot is taken: on a Unix socket the kernel says it, over TCP the address stands for the
//! caller until a token was shown. A connection of somebody unknown (an address, or a uid without a role) ends after
//! [`UNKNOWN_FOR`], and earlier if its slot is needed: the oldest of them makes room. So whoever opens many of them
//! turns away only itself.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    caller::{Caller, Role},
    metrics,
    pressure::{Kind, Pressure},
    shares::Limit,
    status::status,
};

/// How long a connection may stay open before its caller is known.
pub(crate) const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// The part of all slots that unknown callers may have together.
const FOR_UNKNOWN: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Uid(u32),
    Token(Arc<str>),
    Address(IpAddr),
}

impl Key {
    /// One host of IPv6 has a whole /64, and an IPv4 address may come in the clothes of IPv6.
    pub fn of_address(address: IpAddr) -> Key {
        Key::Address(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallerClass {
    Admin,
    Known,
    Unknown,
}

impl From<Option<Role>> for CallerClass {
    fn from(role: Option<Role>) -> Self {
        match role {
            Some(Role::Admin) => CallerClass::Admin,
            Some(Role::Agent | Role::User) => CallerClass::Known,
            None => CallerClass::Unknown,
        }
    }
}

/// The slots of one kind of listener.
pub(crate) struct Slots {
    kind: Kind,
    limit: Limit,
    pressure: Arc<Pressure>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    // In the order they were opened: the oldest is the first.
    slots: BTreeMap<u64, Entry>,
    of: HashMap<Key, usize>,
    unknown: usize,
}

struct Entry {
    key: Key,
    class: CallerClass,
    turn_away: CancellationToken,
}

impl Open {
    fn add(&mut self, id: u64, entry: Entry) {
        *self.of.entry(entry.key.clone()).or_default() += 1;
        self.unknown += usize::from(entry.class == CallerClass::Unknown);
        self.slots.insert(id, entry);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.slots.remove(&id)?;
        self.unknown -= usize::from(entry.class == CallerClass::Unknown);
        if let Some(count) = self.of.get_mut(&entry.key) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&entry.key);
            }
        }
        Some(entry)
    }

    /// Turns away the oldest unknown caller, of `key` if it is given. `false`: there is none.
    fn make_room(&mut self, key: Option<&Key>) -> bool {
        if self.unknown == 0 {
            return false;
        }
        let mut unknown = self
            .slots
            .iter()
            .filter(|(_, entry)| entry.class == CallerClass::Unknown);
        let oldest = unknown.find(|(_, entry)| key.is_none_or(|key| entry.key == *key));
        let Some(id) = oldest.map(|(id, _)| *id) else {
            return false;
        };
        if let Some(entry) = self.remove(id) {
            entry.turn_away.cancel();
        }
        true
    }
}

impl Slots {
    pub fn new(kind: Kind, limit: Limit, pressure: Arc<Pressure>) -> Arc<Self> {
        Arc::new(Slots {
            kind,
            limit,
            pressure,
            open: Mutex::default(),
        })
    }

    /// A slot, or nothing: the connection is to be closed unheard.
    pub fn take(self: &Arc<Self>, key: Key, class: CallerClass) -> Option<Arc<Slot>> {
        let mut open = self.lock();
        if !self.fits(&mut open, &key, class) {
            drop(open);
            self.pressure.refused(self.limit.all);
            return None;
        }
        let id = open.next;
        open.next += 1;
        let turn_away = CancellationToken::new();
        open.add(
            id,
            Entry {
                key,
                class,
                turn_away: turn_away.clone(),
            },
        );
        self.tell(open);
        Some(Arc::new(Slot {
            slots: self.clone(),
            id,
            known: AtomicBool::new(class != CallerClass::Unknown),
            settled: Notify::new(),
            turn_away,
        }))
    }

    /// Whether one more fits; callers that are unknown make room for it.
    fn fits(&self, open: &mut Open, key: &Key, class: CallerClass) -> bool {
        let own = open.of.get(key).copied().unwrap_or_default();
        let (most, for_unknown) = (self.limit.without_kept(), (self.limit.all / FOR_UNKNOWN).max(1));
        match class {
            CallerClass::Admin => open.slots.len() < self.limit.all || open.make_room(None),
            CallerClass::Known => own < self.limit.each && (open.slots.len() < most || open.make_room(None)),
            CallerClass::Unknown if own >= self.limit.each.min(for_unknown / 2).max(1) => {
                self.pressure.refused(self.limit.all);
                open.make_room(Some(key))
            }
            CallerClass::Unknown if open.unknown >= for_unknown || open.slots.len() >= most => {
                self.pressure.refused(self.limit.all);
                open.make_room(None)
            }
            CallerClass::Unknown => true,
        }
    }

    pub fn open(&self) -> usize {
        self.lock().slots.len()
    }

    fn tell(&self, open: MutexGuard<'_, Open>) {
        let now = open.slots.len();
        drop(open);
        metrics::connections(self.pressure.connections(self.kind, now, self.limit));
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's slot.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    id: u64,
    known: AtomicBool,
    settled: Notify,
    turn_away: CancellationToken,
}

impl Slot {
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// The caller of this connection has shown who it is: from now on the slot is of its share.
    ///
    /// # Errors
    /// The caller has its share of connections already; the slot stays one of an unknown caller.
    pub fn settle(&self, caller: &Caller) -> Result<(), Status> {
        let mut open = self.slots.lock();
        let Some(mut entry) = open.remove(self.id) else {
            return Ok(()); // Turned away already; the connection ends in a moment.
        };
        let (before, turn_away) = (entry.key.clone(), entry.turn_away.clone());
        if let Some(token) = &caller.token {
            entry.key = Key::Token(token.clone());
        }
        entry.class = CallerClass::from(Some(caller.role));
        if self.slots.fits(&mut open, &entry.key, entry.class) {
            open.add(self.id, entry);
            drop(open);
            self.known.store(true, Ordering::Release);
            self.settled.notify_one();
            return Ok(());
        }
        open.add(
            self.id,
            Entry {
                key: before,
                class: CallerClass::Unknown,
                turn_away,
            },
        );
        drop(open);
        self.slots.pressure.refused(self.slots.limit.all);
        let each = self.slots.limit.each;
        let message = format!("you have {each} connections open already ([common] max_connections_per_caller)");
        Err(status(Code::ResourceExhausted, message, "MAX_CONNECTIONS"))
    }

    /// Resolves when the connection has to end: its caller was unknown for too long, or its slot was needed.
    pub async fn turned_away(&self) {
        if !self.is_known() {
            tokio::select! {
                () = self.settled.notified() => {}
                () = self.turn_away.cancelled() => return,
                () = sleep(UNKNOWN_FOR) => return,
            }
        }
        self.turn_away.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.lock();
        open.remove(self.id);
        self.slots.tell(open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Health;

    fn slots(all: usize, each: usize) -> Arc<Slots> {
        Slots::new(Kind::Unix, Limit { all, each }, Pressure::new(Health::new()))
    }

    fn open(slots: &Arc<Slots>, uid: u32, class: CallerClass) -> Option<Arc<Slot>> {
        slots.take(Key::Uid(uid), class)
    }

    /// Attack: two users open all the connections they can; an admin still gets in.
    #[tokio::test]
    async fn known_callers_have_a_share_and_admins_the_last_tenth() {
        let slots = slots(20, 12);
        let mut held: Vec<_> = (0..12).map(|_| open(&slots, 1, CallerClass::Known).unwrap()).collect();
        assert!(open(&slots, 1, CallerClass::Known).is_none());
        held.extend((0..6).map(|_| open(&slots, 2, CallerClass::Known).unwrap()));
        assert!(open(&slots, 2, CallerClass::Known).is_none(), "the rest is for admins");
        held.extend((0..2).map(|_| open(&slots, 0, CallerClass::Admin).unwrap()));
        assert!(open(&slots, 0, CallerClass::Admin).is_none());
        held.remove(0);
        assert!(open(&slots, 0, CallerClass::Admin).is_some());
    }

    /// Attack: an address without a token opens connection after connection, so that others find no slot.
    #[tokio::test]
    async fn who_is_unknown_turns_away_only_itself() {
        let slots = slots(16, 8);
        let flood: Vec<_> = (0..50)
            .map(|_| open(&slots, 66, CallerClass::Unknown).unwrap())
            .collect();
        assert_eq!(slots.open(), 2, "the others were turned away");
        flood[0].turned_away().await;
        let other = open(&slots, 67, CallerClass::Unknown).unwrap();
        open(&slots, 66, CallerClass::Unknown).unwrap();
        other.settle(&Caller::of_token("a", Role::User, None)).unwrap();
        assert!(other.is_known() && !other.turn_away.is_cancelled());
        assert!(flood[47].turn_away.is_cancelled());
    }

    #[tokio::test]
    async fn a_token_has_its_share_whatever_the_address() {
        let slots = slots(100, 1);
        let caller = Caller::of_token("a", Role::User, None);
        let one = open(&slots, 1, CallerClass::Unknown).unwrap();
        let two = open(&slots, 2, CallerClass::Unknown).unwrap();
        one.settle(&caller).unwrap();
        assert_eq!(two.settle(&caller).unwrap_err().code(), Code::ResourceExhausted);
        assert!(!two.is_known());
        drop(one);
        two.settle(&caller).unwrap();
    }

    #[test]
    fn a_host_of_ipv6_is_one_address() {
        let key = |text: &str| Key::of_address(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::2:0:0:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }
}
