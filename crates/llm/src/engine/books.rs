//! Budgets and usage in memory and on disk. A request with scopes reserves in all of them by one commit before it is
//! sent; what it really used takes the reservation's place when it ends, however it ends.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::{
    domain::{
        answer::{Cached, Tokens},
        budget::{Amount, Budgets, Key, Scope, Use},
        error::Error,
        price::Price,
        usage::{Cell, GroupBy, Sum},
    },
    store::books::{BookStore, Change, Found, Open, Pending},
};

/// For how many days usage is kept.
const USAGE_DAYS: u64 = 400;
/// How long the last writes may take at a stop.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Cheap to clone; all clones are the same books.
#[derive(Clone)]
pub struct Books(Arc<Inner>);

struct Inner {
    store: BookStore,
    // Reservations are checked and made under it, and changes are queued under it: the disk sees them in this order.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    budgets: Budgets,
    /// Usage of the newest day; older days are on disk only.
    today: BTreeMap<Cell, Sum>,
    next: u64,
}

/// A request as its budgets see it.
#[derive(Debug, Clone)]
pub struct Claim {
    pub scopes: Vec<Scope>,
    pub agent: String,
    pub session: String,
    /// As `provider/model`.
    pub model: String,
    pub price: Option<Price>,
    /// An estimate, in tokens.
    pub input: u64,
    pub longest_output: u64,
}

/// Holds what a request may use until it has ended. Dropped without a word of what was used, it counts nothing.
pub struct Reservation {
    books: Books,
    claim: Claim,
    reserved: Amount,
    /// Under which number it stands on disk; `None` without scopes.
    number: Option<u64>,
    used: Option<(Tokens, Cached)>,
}

impl Books {
    /// Opens the store. What was under way when the daemon last ended is counted: its input was sent.
    pub async fn open(directory: &Path) -> Result<Self, nexus_store::Error> {
        let (store, found) = BookStore::open(directory)?;
        let today = today();
        let usage = store.usage(today, u64::MAX - 1).await?;
        let mut state = State {
            today: usage.into_iter().collect(),
            ..State::default()
        };
        let change = state
            .recover(found, today)
            .forget_usage(today.saturating_sub(USAGE_DAYS));
        store.send(change)?.done().await?;
        let state = Mutex::new(state);
        Ok(Self(Arc::new(Inner { store, state })))
    }

    /// Before a request is sent. An error means that nothing is sent.
    pub async fn reserve(&self, claim: Claim) -> Result<Reservation, Error> {
        let reserved = Amount {
            tokens: claim.input.saturating_add(claim.longest_output),
            cost: claim.price.map(|price| price.most(claim.input, claim.longest_output)),
        };
        let mut reservation = Reservation {
            books: self.clone(),
            claim,
            reserved,
            number: None,
            used: None,
        };
        if let Some(pending) = reservation.begin()? {
            pending.done().await.map_err(|error| Error::Books(error.to_string()))?;
        }
        Ok(reservation)
    }

    /// Usage from one day to another, both included.
    pub async fn usage(&self, from: u64, to: u64, by: GroupBy, of: &Cell) -> Result<Vec<(Cell, Sum)>, Error> {
        let stored = self
            .0
            .store
            .usage(from, to)
            .await
            .map_err(|error| Error::Books(error.to_string()))?;
        let mut rows: BTreeMap<Cell, Sum> = stored.into_iter().collect();
        let newest = self.0.state.lock().today.clone();
        rows.extend(newest.into_iter().filter(|(cell, _)| (from..=to).contains(&cell.day)));
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        let rows = rows.into_iter().filter(|(cell, _)| {
            fits(&of.agent, &cell.agent) && fits(&of.model, &cell.model) && fits(&of.session, &cell.session)
        });
        Ok(by.sum(rows))
    }
}

impl State {
    fn recover(&mut self, found: Found, today: u64) -> Change {
        let mut change = Change::default();
        for (key, spent) in found.spent {
            if spent.day + key.kind.kept_days() < today {
                change = change.forget(&key);
            } else {
                self.budgets.remember(key, spent);
            }
        }
        for (number, open) in found.open {
            self.next = self.next.max(number + 1);
            let scopes: Vec<Scope> = open.scopes.into_iter().map(unlimited).collect();
            let uses = self.budgets.settle(&scopes, Amount::default(), open.input, today);
            let tokens = Tokens {
                input: open.input.tokens,
                output: 0,
            };
            change = self.count(open.cell, tokens, open.input.cost, change);
            change = written(&uses, change).close(number);
        }
        change
    }

    fn count(&mut self, cell: Cell, tokens: Tokens, cost: Option<u64>, change: Change) -> Change {
        if self
            .today
            .keys()
            .next_back()
            .is_some_and(|newest| newest.day < cell.day)
        {
            self.today.clear();
        }
        let sum = self.today.entry(cell.clone()).or_default();
        sum.add(tokens, cost);
        change.usage(&cell, sum)
    }
}

fn unlimited(key: Key) -> Scope {
    Scope {
        key,
        max_tokens: None,
        max_cost: None,
    }
}

fn written(uses: &[Use], change: Change) -> Change {
    uses.iter()
        .fold(change, |change, one| change.spent(&one.scope.key, &one.spent))
}

impl Reservation {
    /// Reserves, and sends it to the disk. Without scopes there is nothing to wait for.
    fn begin(&mut self) -> Result<Option<Pending>, Error> {
        if self.claim.scopes.is_empty() {
            return Ok(None);
        }
        let inner = self.books.0.clone();
        let mut state = inner.state.lock();
        state
            .budgets
            .reserve(&self.claim.scopes, self.reserved, &self.claim.model)
            .map_err(Error::OverBudget)?;
        let number = state.next;
        state.next += 1;
        self.number = Some(number);
        let input = self.claim.input;
        let open = Open {
            scopes: self.claim.scopes.iter().map(|scope| scope.key.clone()).collect(),
            input: Amount {
                tokens: input,
                cost: self.claim.price.map(|price| price.most(input, 0)),
            },
            cell: self.claim.cell(),
        };
        match inner.store.send(Change::default().open(number, &open)) {
            Ok(pending) => Ok(Some(pending)),
            Err(error) => Err(Error::Books(error.to_string())),
        }
    }

    /// What counts if it ends now.
    pub fn used(&mut self, tokens: Tokens, cached: Cached) {
        self.used = Some((tokens, cached));
    }

    /// The input alone: it was sent, and nothing came.
    pub fn sent_in_vain(&mut self) {
        let tokens = Tokens {
            input: self.claim.input,
            output: 0,
        };
        self.used = Some((tokens, Cached::default()));
    }

    /// Ends it, and says how far its budgets are used up and what it cost.
    pub fn settle(mut self) -> (Vec<Use>, Option<u64>) {
        let cost = self.cost();
        (self.end(), cost)
    }

    fn cost(&self) -> Option<u64> {
        let (tokens, cached) = self.used?;
        Some(self.claim.price?.of(tokens, cached))
    }

    fn end(&mut self) -> Vec<Use> {
        let Some(number) = self.number.take() else {
            if self.claim.scopes.is_empty() {
                self.count_only();
            }
            return Vec::new();
        };
        let cost = self.cost();
        let used = Amount {
            tokens: self.used.map_or(0, |(tokens, _)| tokens.total()),
            cost,
        };
        let cell = self.claim.cell();
        let mut state = self.books.0.state.lock();
        let uses = state.budgets.settle(&self.claim.scopes, self.reserved, used, cell.day);
        let mut change = written(&uses, Change::default()).close(number);
        if let Some((tokens, _)) = self.used.take() {
            change = state.count(cell, tokens, cost, change);
        }
        self.books.send(change);
        drop(state);
        for one in uses.iter().filter(|one| one.is_newly_up(used)) {
            tracing::warn!(scope = %one.scope.key, tokens = one.spent.tokens, cost = one.spent.cost, "budget nearly used up");
        }
        uses
    }

    fn count_only(&mut self) {
        let cost = self.cost();
        let Some((tokens, _)) = self.used.take() else { return };
        let cell = self.claim.cell();
        let mut state = self.books.0.state.lock();
        let change = state.count(cell, tokens, cost, Change::default());
        self.books.send(change);
    }
}

impl Books {
    /// At a stop, once no request is answered any more.
    pub async fn close(&self) {
        if !self.0.store.close(CLOSE_WITHIN).await {
            tracing::error!("the store of usage did not close in time");
        }
    }

    /// A change that fails is made up for by the next one of the same scope: totals are written whole.
    fn send(&self, change: Change) {
        if let Err(error) = self.0.store.send(change) {
            tracing::error!(%error, "usage is not saved");
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end();
    }
}

impl Claim {
    fn cell(&self) -> Cell {
        Cell {
            day: today(),
            agent: self.agent.clone(),
            model: self.model.clone(),
            session: self.session.clone(),
        }
    }
}

/// Days since 1970-01-01 UTC.
pub fn today() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() / 86_400)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::domain::budget::Kind;

    fn claim(limit: u64) -> Claim {
        Claim {
            scopes: vec![Scope {
                key: Key {
                    kind: Kind::Run,
                    id: "r".into(),
                },
                max_tokens: Some(limit),
                max_cost: None,
            }],
            agent: "a".into(),
            session: "s".into(),
            model: "p/m".into(),
            price: None,
            input: 10,
            longest_output: 20,
        }
    }

    async fn all(books: &Books) -> Sum {
        let rows = books
            .usage(0, u64::MAX - 1, GroupBy::default(), &Cell::default())
            .await
            .expect("read");
        rows.first().map(|(_, sum)| *sum).unwrap_or_default()
    }

    /// A copy of the store as a power cut of this process would leave it.
    fn killed(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).expect("readable") {
            let entry = entry.expect("readable");
            if entry.file_name().to_string_lossy().starts_with("llm.db") {
                fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_that_dies_with_the_daemon_counts_its_input() {
        let (before, after) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let books = Books::open(before.path()).await.expect("opens");
        let open = books.reserve(claim(100)).await.expect("room");
        killed(before.path(), after.path());
        let again = Books::open(after.path()).await.expect("opens");
        let sum = all(&again).await;
        assert_eq!((sum.requests, sum.input_tokens, sum.output_tokens), (1, 10, 0));
        assert!(again.reserve(claim(39)).await.is_err(), "10 are used");
        assert!(again.reserve(claim(40)).await.is_ok());
        drop(open);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_that_was_never_sent_counts_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let books = Books::open(dir.path()).await.expect("opens");
        drop(books.reserve(claim(30)).await.expect("room"));
        let mut second = books.reserve(claim(30)).await.expect("all of it is free again");
        assert!(matches!(books.reserve(claim(30)).await, Err(Error::OverBudget(_))));
        second.used(Tokens { input: 4, output: 5 }, Cached::default());
        let (uses, cost) = second.settle();
        assert_eq!((uses[0].spent.tokens, cost), (9, None));
        let sum = all(&books).await;
        assert_eq!(
            (sum.requests, sum.input_tokens, sum.output_tokens, sum.unpriced),
            (1, 4, 5, 1)
        );
    }
}
