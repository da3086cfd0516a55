//! Listings of sessions, limited to what one answer may hold.

use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::{ListSessionsRequest, Message, Session as Wire, SessionFilter, SessionState};
use prost::Message as _;

use super::Engine;
use super::reads::Wanted;
use crate::domain::sessions::View;
use crate::domain::{Error, State, filter};
use crate::store::ClosedOf;

/// Messages of one session in a listing.
pub(super) const LISTED_MESSAGES: usize = 100;
/// Sessions in one page when the caller asks for pages without a usable size.
const MAX_PAGE: usize = 1000;
/// Messages read from disk at once, first and at most: they may be large, and only some may fit.
const FIRST_READ: usize = 4;
const MOST_READ: usize = 64;
/// Closed sessions read from disk at once.
const READ_AT_ONCE: usize = 1024;
/// Bytes kept free for each session and each message: the heads of what encloses them.
const HEADS: usize = 32;

/// One page of a listing.
#[derive(Debug)]
pub struct Listing {
    pub sessions: Vec<Wire>,
    /// All sessions of a listing without a filter; with one those of this page, and one more where another page follows.
    pub total: usize,
    /// Where the next page begins; empty at the end.
    pub next: String,
}

impl Engine {
    /// Sessions in the order of their making. Where their messages do not all fit into an answer, those of the sessions
    /// that were silent for the longest are left out first, and of one session the oldest; where not even the sessions
    /// fit, the answer is a page.
    pub async fn sessions(&self, caller: &Caller, request: ListSessionsRequest) -> Result<Listing, Error> {
        let view = View::of(caller, "list sessions")?;
        let (size, after) = page(request.page_size, &request.page_token)?;
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let filter = request.filter.unwrap_or_default();
        let (mut keys, total) = self.matching(&filter, view, after, size).await?;
        let mut more = keys.len() > size;
        keys.truncate(size);

        let max = self.max_message_bytes();
        let mut listed: Vec<(u64, Wire)> = Vec::with_capacity(keys.len());
        let mut bytes = HEADS;
        let mut last = after;
        for key in keys {
            let bare = self.bare_session(key).await?;
            let Some(session) = bare else {
                continue; // deleted meanwhile
            };
            let size = session.encoded_len() + HEADS;
            if bytes + size > max && !listed.is_empty() {
                more = true;
                break;
            }
            bytes += size;
            last = key;
            listed.push((key, session));
        }
        if !request.without_messages {
            self.add_messages(&mut listed, max.saturating_sub(bytes)).await?;
        }
        Ok(Listing {
            sessions: listed.into_iter().map(|(_, session)| session).collect(),
            total,
            next: if more { format!("{last:016x}") } else { String::new() },
        })
    }

    async fn bare_session(&self, key: u64) -> Result<Option<Wire>, Error> {
        let wanted = Wanted { newest: 0, before: 0 };
        let Some((id, _, _)) = self.session_by_key(key).await? else {
            return Ok(None);
        };
        match self.session(&id, View::All, wanted).await {
            Err(Error::SessionNotFound(_)) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Fills `room` bytes with messages, beginning with the sessions that something happened in last.
    async fn add_messages(&self, listed: &mut [(u64, Wire)], mut room: usize) -> Result<(), Error> {
        let mut by_age: Vec<usize> = (0..listed.len()).collect();
        by_age.sort_by_key(|place| {
            let updated = listed[*place].1.updated_at.unwrap_or_default();
            std::cmp::Reverse((updated.seconds, updated.nanos))
        });
        for place in by_age {
            let (key, session) = &mut listed[place];
            room -= self.show_newest(*key, session, room).await?;
        }
        Ok(())
    }

    /// Puts the newest messages into a session that is to be shown, at most `room` bytes of them. Returns how many bytes.
    async fn show_newest(&self, key: u64, session: &mut Wire, room: usize) -> Result<usize, Error> {
        let committed = |engine: &Engine| {
            let head = |ledger: &super::Ledger| {
                ledger
                    .state
                    .sessions
                    .get(key)
                    .map(|session| ledger.cache.of(session).committed())
            };
            engine.look(head)
        };
        let context = session.context.get_or_insert_default();
        // A session that left the memory is closed: nothing is added to it.
        let newest = committed(self).unwrap_or(context.messages_omitted);
        let (mut shown, mut bytes, mut before, mut read) = (Vec::new(), 0, newest + 1, FIRST_READ);
        'full: while shown.len() < LISTED_MESSAGES && before > 1 {
            let most = read.min(LISTED_MESSAGES - shown.len());
            let piece = self.messages_before(key, before, most).await?;
            read = (read * 2).min(MOST_READ);
            if piece.is_empty() {
                break; // deleted meanwhile
            }
            for message in piece.into_iter().rev() {
                let size = message.encoded_len() + HEADS;
                if bytes + size > room {
                    break 'full;
                }
                bytes += size;
                before = message.sequence;
                shown.push(message);
            }
        }
        shown.reverse();
        context.messages = shown;
        context.messages_omitted = before - 1;
        Ok(bytes)
    }

    /// The newest `most` messages before a number, oldest first, from memory where they are there.
    async fn messages_before(&self, key: u64, before: u64, most: usize) -> Result<Vec<Message>, Error> {
        let held: Vec<Message> = self.look(|ledger| {
            let Some(session) = ledger.state.sessions.get(key) else {
                return Vec::new();
            };
            let held = ledger.cache.of(session);
            let start = before.saturating_sub(most as u64).max(held.start());
            let messages = (start..before).filter_map(|n| held.message(n));
            messages.map(|message| Message::clone(message)).collect()
        });
        if !held.is_empty() {
            return Ok(held);
        }
        self.read_messages(key, 0, before, most, true).await
    }

    /// Keys of the sessions that a listing shows after a key, one more than a page holds, and how many it shows in all.
    /// With a filter only a look at every session would tell that: the number is then that of the keys.
    async fn matching(
        &self,
        filter: &SessionFilter,
        view: View<'_>,
        after: u64,
        size: usize,
    ) -> Result<(Vec<u64>, usize), Error> {
        let known = self.look(|ledger| known_total(&ledger.state, filter, view));
        let most = size.saturating_add(1);
        let mut keys: Vec<u64> = self.look(|ledger| {
            let live = ledger.state.sessions.live_after(view, after);
            let shown = live.filter(|session| filter::shows(session, filter));
            shown.map(|session| session.key).take(most).collect()
        });
        if filter.state == 0 || filter.state == i32::from(SessionState::Closed) {
            self.closed_matching(filter, view, after, most, &mut keys).await?;
        }
        keys.sort_unstable();
        keys.dedup(); // one that was closed between the two looks
        keys.truncate(most);
        let total = known.unwrap_or(keys.len());
        Ok((keys, total))
    }

    /// Adds at most `limit` closed sessions after a key.
    async fn closed_matching(
        &self,
        filter: &SessionFilter,
        view: View<'_>,
        mut from: u64,
        most: usize,
        keys: &mut Vec<u64>,
    ) -> Result<(), Error> {
        let of = match (view, filter.owner_id.as_str()) {
            (View::Own(creator), _) => ClosedOf::Creator(creator.into()),
            (View::All, "") => ClosedOf::Everybody,
            (View::All, owner) => ClosedOf::Owner(owner.into()),
        };
        let enough = keys.len().saturating_add(most);
        while keys.len() < enough {
            let limit = (enough - keys.len()).min(READ_AT_ONCE);
            let page = self.shared.stored.closed_sessions(of.clone(), from, limit).await?;
            let Some(last) = page.last() else { break };
            from = last.key;
            let shown = page.iter().filter(|one| view.shows(one) && filter::shows(one, filter));
            keys.extend(shown.map(|session| session.key));
        }
        Ok(())
    }
}

/// How many sessions a listing shows, where that is known without looking at each.
fn known_total(state: &State, filter: &SessionFilter, view: View<'_>) -> Option<usize> {
    if *filter != SessionFilter::default() {
        return None;
    }
    let (live, closed) = match view {
        View::All => (state.sessions.all_live(), state.usage.all_closed()),
        View::Own(creator) => (state.sessions.live_of(creator), state.usage.closed(creator)),
    };
    Some(live.saturating_add(usize::try_from(closed).unwrap_or(usize::MAX)))
}

/// How many sessions a page holds, and the key that it begins after.
fn page(size: i32, token: &str) -> Result<(usize, u64), Error> {
    let size = usize::try_from(size).map_err(|_| Error::Invalid("page_size must not be negative".into()))?;
    let size = match size {
        0 if token.is_empty() => usize::MAX,
        0 => MAX_PAGE,
        size => size.min(MAX_PAGE),
    };
    let after = match token {
        "" => 0,
        token => u64::from_str_radix(token, 16).map_err(|_| Error::Invalid("page_token is not one of ours".into()))?,
    };
    Ok((size, after))
}
